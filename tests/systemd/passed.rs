//! Sockets that the service manager passes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{self, EVERLINK, Echo, Flow, Place, Program, eventually, exchange, free_port, get, upstream};
use crate::holder::Holder;

fn config(http: SocketAddr, listen: &[SocketAddr], echo: &Echo, more: &str) -> String {
    let all = listen.iter().enumerate();
    let upstreams: String =
        all.map(|(n, at)| upstream(&format!("u{n}"), &at.to_string(), echo.address, "5s", more)).collect();
    format!("http.listen = \"{http}\"\ndrain = {{ timeout = \"20s\", quiet = \"10s\" }}\n{upstreams}")
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn say_hello(stream: &mut (impl Read + Write)) {
    stream.write_all(b"hello").expect("sent");
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("back");
    assert_eq!(&back, b"hello");
}

#[test]
fn who_came_before_it_ran_is_served_whatever_the_socket_is_for() {
    let echo = Echo::start();
    let place = Place::new("");
    let (chat, admin) = (place.at("chat.sock"), place.at("admin.sock"));
    let mut holder = Holder::default();
    let (http, tcp) = (holder.tcp("http"), holder.tcp("clients"));
    let gateway = holder.tcp("gateway");
    holder.unix("chat", &chat);
    holder.unix("admin", &admin);
    let token = place.at("token");
    std::fs::write(&token, "sixteen bytes, and some more").expect("written");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let site = free_port();
    let tunnel = format!(
        "[gateway]\nlisten = \"{gateway}\"\ntoken_file = \"{0}\"\nservices.echo = \"{1}\"\n\
         [upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"{gateway}\"]\ntoken_file = \"{0}\"\n\
         forwards = [{{ listen = \"127.0.0.1:{site}\", service = \"echo\" }}]\n\
         [admin]\nsocket = \"{2}\"\n",
        token.display(),
        echo.address,
        admin.display()
    );
    let both = format!("\", \"unix:{}", chat.display());
    let upstreams =
        config(http, &[tcp], &echo, "").replace(&format!("listen = \"{tcp}\""), &format!("listen = [\"{tcp}{both}\"]"));
    place.write(&(upstreams + &tunnel));

    let mut early = TcpStream::connect(tcp).expect("it is listened to already");
    early.write_all(b"hello").expect("sent");
    let mut early_unix = UnixStream::connect(&chat).expect("it is listened to already");
    let scrape = std::thread::spawn(move || get(http, "/livez"));
    let reload = {
        let mut command = Command::new(EVERLINK);
        command.args(["reload", "--socket"]).arg(&admin);
        std::thread::spawn(move || command.output().expect("run"))
    };
    let program = holder.start(place);
    let mut back = [0; 5];
    early.read_exact(&mut back).expect("served");
    assert_eq!(&back, b"hello");
    say_hello(&mut early_unix);
    assert_eq!(scrape.join().expect("no panic").expect("answered").0, 200);
    let reload = reload.join().expect("no panic");
    assert!(reload.status.success(), "{}", harness::text(&reload));
    assert_eq!(program.http(), http);
    eventually("through the tunnel", || exchange(local(site), b"hello").is_ok());
    // Ours are closed on exec, and nobody waits in them.
    for fd in 3..8 {
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", program.id())).expect("open");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
        let flags = u32::from_str_radix(flags, 8).expect("octal");
        assert!(flags & 0o2_000_000 != 0 && flags & 0o4_000 != 0, "{fd}: {flags:o}");
    }
    program.signal("TERM");
    let mut program = program;
    drop((early, early_unix));
    assert!(program.ended().success());
    assert!(chat.exists() && admin.exists(), "the files are the manager's");
    assert!(program.errors().is_empty(), "{:?}", program.errors());
}

/// Clients who come and go without a pause, while everlink is restarted again and again.
#[test]
fn nobody_is_refused_or_cut_by_restarts() {
    let echo = Echo::start();
    let mut holder = Holder::default();
    let (http, address) = (holder.tcp("http"), holder.tcp("clients"));
    let place = || Place::new(&config(http, &[address], &echo, ""));
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut program = holder.start(place());
    program.until_up("u0");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut longest = Duration::ZERO;
                    while !stop.load(Ordering::SeqCst) {
                        let began = Instant::now();
                        let back = exchange(address, b"a client's words").unwrap_or_else(|error| {
                            stop.store(true, Ordering::SeqCst);
                            panic!("after {:?}: {error}", began.elapsed())
                        });
                        assert_eq!(back, b"a client's words");
                        longest = longest.max(began.elapsed());
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                    longest
                })
            })
            .collect();
        let more = |count: usize| {
            let goal = done.load(Ordering::SeqCst) + count;
            eventually("clients are served", || done.load(Ordering::SeqCst) >= goal || stop.load(Ordering::SeqCst));
        };
        for _ in 0..4 {
            more(50);
            // A client that stays for a while is waited for.
            let flow = Flow::start(address);
            flow.until_moved(1);
            program.signal("TERM");
            eventually("draining", || program.logged("draining") > 0);
            flow.until_moved(20_000);
            flow.end().expect("whole");
            let began = Instant::now();
            assert!(program.ended().success());
            // Nobody new can come, so the ten seconds of `drain.quiet` are not waited for.
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            assert_eq!(program.logged("what was left is reset"), 0);
            program = holder.start(place());
        }
        // One that falls takes its clients along, but refuses none.
        more(50);
        stop.store(true, Ordering::SeqCst);
        let longest = clients.into_iter().map(|client| client.join().expect("all served")).max();
        assert!(longest.is_some_and(|longest| longest < Duration::from_secs(15)), "{longest:?}");
    });
    program.signal("KILL");
    program.ended();
    let mut queued = TcpStream::connect(address).expect("not refused");
    let _next = holder.start(place());
    say_hello(&mut queued);
}

#[test]
fn an_edit_may_drop_a_passed_socket_and_name_it_again() {
    let echo = Echo::start();
    let mut holder = Holder::default();
    let (http, one, other) = (holder.tcp("http"), holder.tcp("one"), holder.tcp("other"));
    let program = holder.start(Place::new(&config(http, &[one, other], &echo, "")));
    program.until_up("u1");
    exchange(other, b"hello").expect("served");
    program.place.replace(&config(http, &[one], &echo, ""));
    let told = format!("the socket passed for {other} (other) is named by no key any more");
    eventually("told", || program.logged(&told) == 1);
    let mut waiting = TcpStream::connect(other).expect("the manager listens");
    // Another upstream has it now, and the one who waits.
    program.place.replace(&config(http, &[other, one], &echo, ""));
    say_hello(&mut waiting);
    assert_eq!(exchange(one, b"hello").expect("served"), b"hello");
    // HTTP, too: away and back.
    program.place.replace(&config(local(0), &[one, other], &echo, ""));
    eventually("moved", || program.http_address().is_some_and(|address| address != http));
    program.place.replace(&config(http, &[one, other], &echo, ""));
    assert_eq!(get(http, "/readyz").expect("answered").0, 200);
    assert_eq!(program.logged("is closed: no key"), 0);
}

/// By systemd's own tool, which passes the sockets on and keeps none.
fn activated(options: &[&str], listen: &[SocketAddr], place: &Place) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    command.args(options);
    for address in listen {
        command.args(["-l", &address.to_string()]);
    }
    command.args([EVERLINK, "--config"]).arg(place.config());
    command
}

#[test]
fn a_passed_socket_that_no_key_names_is_told_and_closed() {
    let echo = Echo::start();
    let [used, unused, http] = [0; 3].map(|_| local(free_port()));
    let place = Place::new(&config(http, &[used], &echo, ""));
    let command = activated(&["--fdname=used:stale"], &[used, unused], &place);
    let mut program = Program::spawn(place, command);
    let mut first = None;
    // The tool starts everlink when the first client comes.
    eventually("it listens", || {
        first = TcpStream::connect(used).ok();
        first.is_some()
    });
    say_hello(first.as_mut().expect("connected"));
    program.until_logged(&format!("the socket passed for {unused} (stale) is closed: no key has that address"));
    TcpStream::connect(unused).expect_err("nobody has it any more");
    // Nobody has it, so it can be had.
    program.place.replace(&config(http, &[used, unused], &echo, ""));
    eventually("bound", || exchange(unused, b"hello").is_ok());
}

#[test]
fn a_passed_socket_of_the_wrong_kind_is_an_error() {
    let echo = Echo::start();
    let [address, http] = [0; 2].map(|_| local(free_port()));
    let place = Place::new(&config(http, &[address], &echo, ""));
    let command = activated(&["--datagram"], &[address], &place);
    let mut program = Program::spawn(place, command);
    let sender = UdpSocket::bind("127.0.0.1:0").expect("bound");
    eventually("ended", || {
        let _ = sender.send_to(b"wake up", address);
        !program.is_running()
    });
    assert_eq!(program.ended().code(), Some(1));
    let told = format!(
        "u0: cannot listen on {address}: the socket passed for it (unknown) is no stream socket: its unit must say ListenStream="
    );
    eventually("told", || program.log().iter().any(|line| line.contains(&told)));
}

#[test]
fn what_is_meant_for_another_process_is_left_alone() {
    let echo = Echo::start();
    let address = local(free_port());
    let place = Place::new(&config(local(0), &[address], &echo, ""));
    let mut command = Command::new(EVERLINK);
    command.arg("--config").arg(place.config()).env("LISTEN_PID", "1").env("LISTEN_FDS", "2");
    let program = Program::start_as(place, command);
    exchange(address, b"hello").expect("a socket of its own");
    drop(program);
    // More than there are: told, and no trouble.
    let place = Place::new(&config(local(0), &[address], &echo, ""));
    let mut command = Command::new("bash");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" --config \"$1\"", EVERLINK]).arg(place.config());
    let program = Program::start_as(place, command);
    exchange(address, b"hello").expect("a socket of its own");
    assert_eq!(program.logged("what the service manager passed as unknown is of no use: Bad file descriptor"), 2);
}
