//! A real Exim behind everlink. It greets first and counts commands that bring no mail.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use crate::common::PATIENCE;
use crate::common::program::{Daemon, Program, command, directory, free_port, succeeded, user, wait_until};

/// A server that takes mail from everybody and keeps it in its queue.
struct Exim {
    port: u16,
    directory: TempDir,
    server: Option<Daemon>,
}

impl Exim {
    fn start() -> Self {
        let (directory, port) = (directory(), free_port());
        let place = directory.path().display();
        let configuration = format!(
            "spool_directory = {place}/spool\nlog_file_path = {place}/spool/%slog\npid_file_path = {place}/spool/pid\n\
             local_interfaces = 127.0.0.1\ndaemon_smtp_ports = {port}\nkeep_environment =\nqueue_only\n\
             acl_smtp_rcpt = accept\nbegin acl\nbegin routers\n\
             all:\n  driver = redirect\n  data = :blackhole:\n"
        );
        std::fs::write(directory.path().join("exim.conf"), configuration).expect("written");
        let spool = directory.path().join("spool");
        std::fs::create_dir(&spool).expect("made");
        if user() == 0 {
            // Root leaves its rights behind for the user of the Debian package.
            let id = |flag| succeeded(command("id").args([flag, "Debian-exim"])).trim().parse().expect("a number");
            chown(&spool, Some(id("-u")), Some(id("-g"))).expect("given to the user Debian-exim");
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(directory.path(), open).expect("its way there");
        }
        let mut exim = Self { port, directory, server: None };
        exim.start_again();
        exim
    }

    fn start_again(&mut self) {
        let mut server = command("exim4");
        server.arg("-C").arg(self.directory.path().join("exim.conf")).arg("-bdf");
        let serves = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        self.server = Some(Daemon::start(&mut server, &self.directory.path().join("log")).until_ready(serves));
    }

    /// Messages in its queue.
    fn queued(&self) -> usize {
        let queue = std::fs::read_dir(self.directory.path().join("spool/input")).into_iter().flatten().flatten();
        queue.filter(|file| file.file_name().to_string_lossy().ends_with("-H")).count()
    }

    fn behind_everlink(&self) -> Program {
        let everlink = Program::start(&format!(
            "[upstreams.mail]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             heartbeat = {{ interval = \"200ms\", preset = \"smtp\" }}\n\
             retry = {{ initial = \"100ms\", max = \"1s\" }}\nlimits.wait = \"20s\"\n",
            self.port
        ));
        everlink.until_up("mail", 2);
        everlink
    }
}

/// Brings one message, as mail programs do. Errors: it was not taken.
fn mail(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(server)?);
    stream.get_ref().set_read_timeout(Some(PATIENCE))?;
    let message = "Subject: hello\r\n\r\nhello\r\n.\r\n";
    let words =
        ["", "EHLO here\r\n", "MAIL FROM:<a@here>\r\n", "RCPT TO:<b@there>\r\n", "DATA\r\n", message, "QUIT\r\n"];
    for (word, code) in words.iter().zip(["220", "250", "250", "250", "354", "250", "221"]) {
        stream.get_mut().write_all(word.as_bytes())?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if !line.starts_with(code) {
                return Err(std::io::Error::other(format!("{word:?}: {line:?}")));
            }
            if !line[3..].starts_with('-') {
                break;
            }
        }
    }
    Ok(())
}

#[test]
fn exim_counts_what_brings_no_mail_and_ends_no_link_for_it() {
    let exim = Exim::start();
    let everlink = exim.behind_everlink();
    wait_until("many beats are answered", || {
        everlink.metric(r#"everlink_heartbeat_rtt_seconds_count{upstream="mail"}"#) >= 50.0
    });
    let lost =
        |reason: &str| everlink.metric(&format!(r#"everlink_link_losses_total{{reason="{reason}",upstream="mail"}}"#));
    assert_eq!((lost("protocol"), lost("closed"), lost("reset")), (0.0, 0.0, 0.0));
    assert!(lost("aged") >= 6.0, "renewed instead");
    assert_eq!(everlink.metric(r#"everlink_heartbeats_missed_total{upstream="mail"}"#), 0.0);
    for _ in 0..4 {
        mail(everlink.listener("mail")).expect("taken");
    }
    assert_eq!(exim.queued(), 4);
    everlink.stop();
}

#[test]
fn mail_waits_for_an_exim_that_is_restarted_and_none_that_was_taken_is_lost() {
    let mut exim = Exim::start();
    let everlink = exim.behind_everlink();
    let (at, stop) = (everlink.listener("mail"), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let sender = std::thread::spawn(move || {
        let mut all = Vec::new();
        while !stopped.load(Ordering::SeqCst) {
            all.push((Instant::now(), mail(at)));
        }
        all
    });
    wait_until("some were taken", || exim.queued() >= 5);
    exim.server.take().expect("running").end_by("TERM");
    let gone = Instant::now();
    wait_until("a sender waits", || everlink.metric(r#"everlink_connections_waiting{upstream="mail"}"#) == 1.0);
    let before = exim.queued();
    exim.start_again();
    wait_until("some more were taken", || exim.queued() >= before + 5);
    stop.store(true, Ordering::SeqCst);
    let all = sender.join().expect("no panic");
    let failed: Vec<_> = all.iter().filter(|(_, mail)| mail.is_err()).collect();
    assert!(failed.iter().all(|(began, _)| *began < gone), "only what was under way: {failed:?}");
    assert!(failed.len() <= 1, "one at a time: {failed:?}");
    let taken = all.len() - failed.len();
    assert!((taken..=taken + 1).contains(&exim.queued()), "{taken} taken, {} there", exim.queued());
    everlink.stop();
}
