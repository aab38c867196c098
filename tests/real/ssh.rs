//! A real OpenSSH server behind everlink. It greets first, takes no question before login, and counts those who have not
//! logged in.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::program::{
    Daemon, Program, command, directory, finished, free_port, succeeded, wait_until, wait_within,
};

/// A server with keys of its own, for the user that runs the test.
struct Ssh {
    port: u16,
    directory: TempDir,
    settings: Vec<String>,
    server: Option<Daemon>,
}

impl Ssh {
    /// `settings`: further `Name=value` of the server.
    fn start(settings: &[&str]) -> Self {
        let directory = directory();
        for key in ["host", "user"] {
            let mut keygen = command("ssh-keygen");
            succeeded(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(directory.path().join(key)));
        }
        // Where the server leaves its rights behind while it talks to strangers.
        let _ = std::fs::create_dir("/run/sshd");
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut ssh = Self { port: free_port(), directory, settings, server: None };
        ssh.start_again();
        ssh
    }

    fn start_again(&mut self) {
        let file = |name: &str| self.directory.path().join(name);
        // It starts itself anew for each connection, so it is called by its whole path.
        let mut server = command("sshd");
        server.args(["-D", "-e", "-f", "/dev/null", "-p", &self.port.to_string(), "-h"]).arg(file("host"));
        let keys = format!("AuthorizedKeysFile={}", file("user.pub").display());
        for setting in ["ListenAddress=127.0.0.1", "StrictModes=no", "PidFile=none", "UsePAM=no", &keys] {
            server.args(["-o", setting]);
        }
        for setting in &self.settings {
            server.args(["-o", setting]);
        }
        let serves = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        self.server = Some(Daemon::start(&mut server, &file("log")).until_ready(serves));
    }

    fn behind_everlink(&self, more: &str) -> Program {
        let everlink = Program::start(&format!(
            "[upstreams.ssh]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             retry = {{ initial = \"100ms\", max = \"1s\" }}\nlimits.wait = \"20s\"\n{more}",
            self.port
        ));
        everlink.until_up("ssh", everlink.upstream("ssh").links.len());
        everlink
    }

    /// A client of everlink's, which runs `what` at the far end.
    fn client(&self, everlink: &Program, what: &str) -> Command {
        let mut ssh = command("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ]);
        ssh.args(["-o", "LogLevel=ERROR", "-p", &everlink.listener("ssh").port().to_string(), "-i"]);
        ssh.arg(self.directory.path().join("user")).arg("127.0.0.1").arg(what);
        ssh
    }
}

#[test]
fn a_restart_of_sshd_ends_no_session_and_lets_the_next_one_wait() {
    let mut ssh = Ssh::start(&[]);
    let everlink = ssh.behind_everlink("");
    assert_eq!(succeeded(&mut ssh.client(&everlink, "echo here")), "here\n");
    let mut session = ssh.client(&everlink, "cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
    let mut input = session.stdin.take().expect("a pipe");
    let mut output = BufReader::new(session.stdout.take().expect("a pipe"));
    let mut says = |what: &str| {
        writeln!(input, "{what}").expect("said");
        let mut line = String::new();
        output.read_line(&mut line).expect("heard");
        assert_eq!(line.trim_end(), what);
    };
    says("before");
    // Sessions have processes of their own; so have warm links, which serve one client each without a listening server.
    ssh.server.take().expect("running").end_by("TERM");
    says("meanwhile");
    for _ in 0..everlink.upstream("ssh").links.len() {
        assert_eq!(succeeded(&mut ssh.client(&everlink, "echo over a warm link")), "over a warm link\n");
    }
    let waits = ssh.client(&everlink, "echo waited").stdout(Stdio::piped()).spawn().expect("ssh");
    wait_until("a client waits", || everlink.metric(r#"everlink_connections_waiting{upstream="ssh"}"#) == 1.0);
    ssh.start_again();
    let waited = waits.wait_with_output().expect("ended");
    assert_eq!((waited.status.success(), &waited.stdout[..]), (true, &b"waited\n"[..]));
    says("after");
    assert_eq!(everlink.metric(r#"everlink_connections_closed_total{reason="dead",upstream="ssh"}"#), 0.0);
    let _ = session.kill();
    let _ = session.wait();
    everlink.stop();
}

#[test]
fn links_that_sshd_cuts_for_not_logging_in_are_renewed_before_it_does() {
    let ssh = Ssh::start(&["LoginGraceTime=6"]);
    let everlink = ssh.behind_everlink("");
    let learned = || everlink.upstream("ssh").learned_max_age_seconds;
    wait_within(Duration::from_secs(60), "it is learned", || learned().is_some());
    let age = learned().expect("learned");
    assert!((4.0..6.0).contains(&age), "{age}");
    // The other link is as old as the one that was cut last: it may be too late for it.
    let aged = || everlink.metric(r#"everlink_link_losses_total{reason="aged",upstream="ssh"}"#);
    let before = aged();
    wait_until("both are renewed by it", || aged() >= before + 2.0);
    everlink.until_up("ssh", 2);
    let cuts = everlink.metric(r#"everlink_link_losses_total{reason="closed",upstream="ssh"}"#);
    // What is left of the six seconds must do for the login, which on a machine under load it may not at once.
    for _ in 0..3 {
        wait_until("a client logs in", || finished(&mut ssh.client(&everlink, "echo here")).stdout == b"here\n");
    }
    assert_eq!(everlink.metric(r#"everlink_link_losses_total{reason="closed",upstream="ssh"}"#), cuts);
    everlink.stop();
}
