//! The commands that look at a configuration or ask a running program, and the demo.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use harness::{EVERLINK, Echo, Place, Program, eventually, exchange, free_port, get, one, text, top, upstream};

fn everlink(words: &[&str]) -> Output {
    Command::new(EVERLINK).args(words).env_remove("EVERLINK_URL").output().expect("run")
}

fn check(path: &Path) -> Output {
    everlink(&["check", path.to_str().expect("UTF-8")])
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Without comments, which tell the origins, and without the one key that is told only where it does something.
fn bare(shown: &[u8]) -> String {
    let shown = String::from_utf8_lossy(shown);
    let lines = shown.lines().map(|line| line.split("  # ").next().unwrap_or(line));
    let told = |line: &&str| !line.starts_with('#') && *line != "insecure_listen = false";
    lines.filter(told).collect::<Vec<_>>().join("\n")
}

#[test]
fn fault_50_check_tells_every_problem_and_exits_78_as_the_start_does() {
    let place = Place::new(
        "heartbeet = 1\n[upstreams.a]\nlisten = \"127.0.0.1:70000\"\nendpoints = [\"http://a:1\", \"b\"]\n\
         [upstreams.a.heartbeat]\ninterval = 5\nmisses = 0\n[upstreams.A]\nlisten = \"127.0.0.1:1\"\n",
    );
    let checked = check(&place.config());
    let told = text(&checked);
    assert_eq!(checked.status.code(), Some(78));
    for line in ["1:1", "3:10", "4:14", "4:28", "6:12", "7:10", "8:12"] {
        assert!(told.contains(&format!("config.toml:{line}")), "{line}: {told}");
    }
    assert!(told.contains('^') && told.contains("5s"), "{told}");
    let started = Command::new(EVERLINK).arg("--config").arg(place.config()).output().expect("run");
    assert_eq!(started.status.code(), Some(78));
    assert_eq!(started.stderr, checked.stderr, "start and check say the same");
    assert!(started.stdout.is_empty());
    let missing = check(&place.at("missing.toml"));
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing).contains("missing.toml"));
}

#[test]
fn check_says_that_a_file_can_be_used_however_it_is_named() {
    let place = Place::new(&upstream("chat", "127.0.0.1:0", at(1), "5s", ""));
    let file = place.config();
    let file = file.to_str().expect("UTF-8");
    for words in [&["check", file][..], &["check", "--config", file], &["check", "-c", file]] {
        let checked = everlink(words);
        assert_eq!(checked.status.code(), Some(0), "{checked:?}");
        let shown = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(shown.ends_with(&format!("\n# {file} can be used\n")), "{shown}");
    }
    assert_eq!(everlink(&["check", file, "--config", file]).status.code(), Some(2), "only one of them");
    place.write(&upstream("chat", "0.0.0.0:0", at(1), "5s", "insecure_listen = true"));
    let warned = check(&place.config());
    assert_eq!(warned.status.code(), Some(0), "{warned:?}");
    assert!(text(&warned).contains(" can be used, with 1 warning\n"), "{warned:?}");
    let missing = text(&everlink(&["check", "--config", "/nonexistent/config.toml"]));
    assert!(missing.contains("name it with --config FILE") && missing.contains("[upstreams.orders]"), "{missing}");
}

#[test]
fn check_takes_what_comes_on_standard_input() {
    let place = Place::new(&upstream("chat", "127.0.0.1:0", at(1), "5s", ""));
    let check = || {
        let input = std::fs::File::open(place.config()).expect("opened");
        Command::new(EVERLINK).args(["check", "-"]).stdin(input).output().expect("run")
    };
    let good = check();
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(String::from_utf8_lossy(&good.stdout).ends_with("\n# <stdin> can be used\n"), "{good:?}");
    place.write("[upstreams.chat]\nlisten = 5s\n");
    let bad = check();
    assert_eq!(bad.status.code(), Some(78), "{bad:?}");
    assert!(text(&bad).contains("<stdin>:2:10"), "{bad:?}");
}

#[test]
fn a_command_says_why_it_knows_no_admin_socket() {
    let place = Place::new(&upstream("chat", "127.0.0.1:0", at(1), "5s", ""));
    let file = place.config();
    let ask = || {
        let told = everlink(&["reload", "--config", file.to_str().expect("UTF-8")]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        text(&told)
    };
    let told = ask();
    assert!(told.contains("names no admin socket") && told.contains("--socket PATH"), "{told}");
    place.write("[upstreams.chat]\nlisten = 5s\n");
    let told = ask();
    assert!(
        told.contains("cannot be used: ") && told.contains("config.toml:2:10") && told.contains("mend it"),
        "{told}"
    );
}

#[test]
fn a_port_that_is_taken_is_told_with_what_to_do() {
    let rival = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = rival.local_addr().expect("an address");
    let place =
        Place::new(&format!("[http]\nlisten = \"{taken}\"\n{}", upstream("chat", "127.0.0.1:0", at(1), "5s", "")));
    let mut command = Command::new(EVERLINK);
    command.arg("--config").arg(place.config());
    let mut program = Program::spawn(place, command);
    assert_eq!(program.ended().code(), Some(1));
    let told = format!("http.listen: cannot listen on {taken}: ");
    eventually("told", || {
        program.log().iter().any(|line| line.contains(&told) && line.contains("choose another port"))
    });
}

#[test]
fn the_effective_configuration_reads_back_as_the_same() {
    let place = Place::new(&format!(
        "{}[log]\nlevel = \"debug\"\n[drain]\nquiet = \"off\"\n[defaults.retry]\njitter = 0.5\n{}{}",
        top(),
        upstream("a", "127.0.0.1:0", at(1), "3s", "balance = \"round-robin\""),
        upstream(
            "b",
            "127.0.0.1:0",
            at(2),
            "300ms",
            "retry = { initial = \"3s\", multiplier = 1.0, jitter = \"off\", attempts = 5 }"
        ),
    ));
    let first = check(&place.config());
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let told = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(told.contains("interval = \"300ms\"  # line") && told.contains("jitter = 0.5  # defaults line"), "{told}");
    assert!(told.contains("# default"), "{told}");
    assert!(told.contains("within 6s") && told.contains("within 3s300ms"), "the detection budgets are told: {told}");
    place.write(&told);
    let second = check(&place.config());
    assert_eq!(second.status.code(), Some(0), "{second:?}");
    assert_eq!(bare(&second.stdout), bare(&first.stdout));
}

#[test]
fn check_against_a_running_one_lists_what_a_reload_would_do_and_it_does_just_that() {
    let echo = Echo::start();
    let program = Program::start(&one(echo.address, ""));
    let before = std::fs::read_to_string(program.place.config()).expect("read");
    let against = |path: &Path| everlink(&["check", path.to_str().expect("UTF-8"), "--against", &program.url()]);
    let same = against(&program.place.config());
    assert!(same.status.success() && text(&same).contains("would change nothing"), "{}", text(&same));
    let new = before.replace("interval = \"5s\"", "interval = \"3s\"")
        + &upstream("b", "127.0.0.1:0", echo.address, "5s", "");
    std::fs::write(program.place.at("new.toml"), new).expect("written");
    let told = text(&against(&program.place.at("new.toml")));
    for line in ["a: heartbeat.interval 5s → 3s, live", "b: added"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(program.interval("a"), Some(5.0), "asking changes nothing");
    std::fs::rename(program.place.at("new.toml"), program.place.config()).expect("renamed");
    eventually("applied", || program.reloads("applied") == 1.0);
    eventually("both told", || program.logged("configuration applied") == 2);
    let nobody =
        everlink(&["check", program.place.config().to_str().expect("UTF-8"), "--against", "http://127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
}

#[test]
fn probes_answer_by_their_exit_code() {
    let port = free_port();
    let program = Program::start(&one(at(port), "required = true\nretry = { initial = \"100ms\", max = \"200ms\" }"));
    let probe = |what: &str| everlink(&["probe", what, "--url", &program.url()]);
    assert_eq!(probe("live").status.code(), Some(0));
    assert_eq!(probe("started").status.code(), Some(0));
    let ready = probe("ready");
    assert_eq!(ready.status.code(), Some(1));
    assert!(text(&ready).contains("not ready"), "{ready:?}");
    assert_eq!(program.get("/readyz").0, 503);
    assert!(program.get("/readyz?verbose").1.contains("upstream a is required and has no live link"));
    let echo = Echo::start_at(at(port));
    eventually("ready", || probe("ready").status.code() == Some(0));
    assert_eq!(program.get("/readyz").0, 200);
    drop(echo);
    eventually("not ready", || probe("ready").status.code() == Some(1));
    program.place.replace(&one(at(port), "required = false\nretry = { initial = \"100ms\", max = \"200ms\" }"));
    eventually("not needed any more", || probe("ready").status.code() == Some(0));
    // The environment names it as well, and nobody there is a no.
    let by_name =
        Command::new(EVERLINK).args(["probe", "live"]).env("EVERLINK_URL", program.url()).output().expect("run");
    assert_eq!(by_name.status.code(), Some(0));
    assert_eq!(everlink(&["probe", "live", "--url", "http://127.0.0.1:1"]).status.code(), Some(1));
    // Only a no that came from there.
    let id = program.id();
    harness::send_signal("STOP", id);
    let began = Instant::now();
    assert_eq!(probe("live").status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(10));
    harness::send_signal("CONT", id);
}

#[test]
fn a_server_that_accepts_and_never_answers_is_not_up() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = deaf.local_addr().expect("an address");
    let program = Program::start(&one(endpoint, "required = true\nretry = { initial = \"100ms\", max = \"200ms\" }"));
    let up = format!("everlink_endpoint_up{{endpoint=\"{endpoint}\",upstream=\"a\"}}");
    let timed_out = || program.sum("everlink_link_dials_total", "outcome=\"timeout\"");
    while timed_out() < 4.0 {
        assert_eq!(program.metric("everlink_upstream_up{upstream=\"a\"}"), Some(0.0));
        assert_eq!(program.metric(&up), Some(0.0));
        assert_eq!(program.get("/readyz").0, 503);
    }
    assert_eq!(program.sum("everlink_link_losses_total", ""), 0.0, "what never stood cannot be lost");
}

#[test]
fn status_is_a_table_of_the_links() {
    let echo = Echo::start();
    let program = Program::start(&one(echo.address, ""));
    program.until_links("a", 2.0);
    let told = everlink(&["status", "--url", &program.url()]);
    assert!(told.status.success());
    let told = text(&told);
    assert!(told.contains("a ") && told.contains("up") && told.contains(&echo.address.to_string()), "{told}");
    assert!(!told.contains('\u{1b}'), "no colours into a pipe: {told:?}");
    assert_eq!(everlink(&["status", "--url", "http://127.0.0.1:1"]).status.code(), Some(1));
}

#[test]
fn the_tutorials_five_tries_end_in_failed_and_retry_brings_the_link_back() {
    let port = free_port();
    let place = Place::new("");
    let retry = "pool.size = 1\nretry = { initial = \"3s\", multiplier = 1.0, jitter = \"off\", attempts = 5 }";
    place.write(&format!("admin.socket = \"{}\"\n{}", place.at("admin.sock").display(), one(at(port), retry)));
    let began = Instant::now();
    let program = Program::start_in(place);
    program.until_metric("everlink_links{state=\"failed\",upstream=\"a\"}", 1.0);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(12), "five tries, 3 s apart: {took:?}");
    assert_eq!(program.sum("everlink_link_dials_total", "outcome=\"refused\""), 5.0);
    let _echo = Echo::start_at(at(port));
    let unknown = program.ask(&["retry", "b"]);
    assert!(unknown.status.code() == Some(1) && text(&unknown).contains("no upstream b"), "{unknown:?}");
    assert_eq!(program.metric("everlink_links{state=\"failed\",upstream=\"a\"}"), Some(1.0), "failed is final");
    let asked = program.ask(&["retry", "a"]);
    assert!(asked.status.success() && text(&asked).contains('1'), "{asked:?}");
    program.until_links("a", 1.0);
    assert_eq!(exchange(program.listens("a"), b"back").expect("carried"), b"back");
}

#[test]
fn without_a_command_it_runs_the_config_in_this_directory() {
    let echo = Echo::start();
    let place = Place::new(&one(echo.address, ""));
    let mut command = Command::new(EVERLINK);
    command.current_dir(place.at("."));
    let program = Program::start_as(place, command);
    program.until_up("a");
    program.place.replace(&one(echo.address, "pool.size = 3"));
    program.until_links("a", 3.0);
}

#[test]
fn what_is_no_command_gets_help_and_exit_code_2() {
    for words in [&["stop"][..], &["--nonsense"], &["probe", "alive"], &["retry"]] {
        let told = everlink(words);
        assert_eq!(told.status.code(), Some(2), "{words:?}");
        assert!(text(&told).contains("--help") && told.stdout.is_empty(), "{told:?}");
    }
    let help = everlink(&["--help"]);
    assert!(help.status.success());
    for command in
        ["run", "check", "status", "probe", "reload", "retry", "drill", "schema", "completions", "man", "demo"]
    {
        assert!(text(&help).contains(&format!("\n  {command} ")), "{command}");
    }
    assert!(text(&everlink(&["--version"])).contains(env!("CARGO_PKG_VERSION")));
    let none = everlink(&["reload", "--config", "/nonexistent"]);
    assert!(none.status.code() == Some(1) && text(&none).contains("--socket"), "{none:?}");
}

/// What a shell makes of our completions: the last word of what is typed, completed.
fn completed(shell: &str, script: &str, typed: &str) -> String {
    let place = Place::new("");
    std::fs::write(place.at("completions"), script).expect("written");
    let mut command = Command::new(shell);
    let script = place.at("completions").display().to_string();
    match shell {
        "bash" => command.args(["--norc", "--noprofile", "-c"]).arg(format!(
            "set -eu; source {script}; COMP_WORDS=({typed}); [[ '{typed}' == *' ' ]] && COMP_WORDS+=(''); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _everlink everlink \"${{COMP_WORDS[COMP_CWORD]}}\" \"\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )),
        "fish" => command.args(["--no-config", "-c"]).arg(format!("source {script}; complete -C '{typed}'")),
        // Its completions want a terminal; here it reads them, and has the function.
        "zsh" => command.args(["-f", "-c"]).arg(format!(
            "autoload -Uz compinit; compinit -D -u; source {script}; whence -w _everlink; functions _everlink"
        )),
        other => panic!("{other}"),
    };
    let told = command.env("HOME", place.at("")).output().unwrap_or_else(|error| panic!("{shell}: {error}"));
    assert!(told.status.success() && told.stderr.is_empty(), "{shell}: {told:?}");
    text(&told)
}

#[test]
fn shells_take_the_completions() {
    for (shell, typed) in [("bash", "everlink dr"), ("fish", "everlink dr"), ("zsh", "")] {
        let told = everlink(&["completions", shell]);
        assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
        let script = String::from_utf8(told.stdout).expect("UTF-8");
        let shown = completed(shell, &script, typed);
        assert!(shown.contains("drill"), "{shell}: {shown}");
        // fish is told of options and commands, not of the words that may stand for an argument.
        if shell == "bash" {
            let shown = completed(shell, &script, "everlink drill orders ");
            assert!(
                ["blackhole", "reset", "delay", "stop"].iter().all(|word| shown.contains(word)),
                "{shell}: {shown}"
            );
        }
    }
    assert_eq!(everlink(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn the_manual_page_is_one_that_man_shows() {
    let told = everlink(&["man"]);
    assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
    let place = Place::new("");
    std::fs::write(place.at("everlink.1"), &told.stdout).expect("written");
    let shown =
        Command::new("groff").args(["-man", "-ww", "-Kutf8", "-Tutf8", "-P-cbou"]).arg(place.at("everlink.1")).output();
    let shown = shown.expect("groff");
    assert!(shown.status.success() && shown.stderr.is_empty(), "{}", String::from_utf8_lossy(&shown.stderr));
    let page = String::from_utf8(shown.stdout).expect("UTF-8");
    for what in [
        "everlink drill",
        "everlink schema",
        "--for",
        "EXIT STATUS",
        "78",
        "SIGNALS",
        "SIGHUP",
        "FILES",
        "admin",
        "EVERLINK_URL",
        "[upstreams.orders]",
    ] {
        assert!(page.contains(what), "{what}: {page}");
    }
}

/// The shipped configuration at other ports: client's, server's, HTTP's, the tunnel's client's, the gateway's.
fn shipped(ports: [u16; 5]) -> String {
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml")).expect("shipped");
    let mut config = shipped;
    for (old, new) in [7000, 7100, 9900, 7001, 7443].into_iter().zip(ports) {
        let (old, new) = (format!("\"127.0.0.1:{old}\""), format!("\"127.0.0.1:{new}\""));
        // The server is an endpoint and a service, the gateway an endpoint and a listener.
        assert_eq!(config.matches(&old).count(), if [7100, 7443].contains(&old_port(&old)) { 2 } else { 1 }, "{old}");
        config = config.replace(&old, &new);
    }
    config
}

fn old_port(address: &str) -> u16 {
    address.trim_matches('"').rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

fn five_ports() -> [u16; 5] {
    std::array::from_fn(|_| free_port())
}

fn demo(ports: [u16; 5]) -> (Place, Command) {
    let place = Place::new(&shipped(ports));
    let mut command = Command::new(EVERLINK);
    command.arg("demo").arg("--config").arg(place.config()).env("EVERLINK_ADMIN", place.at("admin.sock"));
    command.env("EVERLINK_TOKEN_FILE", place.at("token"));
    (place, command)
}

#[test]
fn the_shipped_config_is_one_that_runs() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let place = Place::new("");
    let token = place.at("token");
    everlink::demo::provide_token(Path::new(&token)).expect("made");
    let checked = Command::new(EVERLINK).arg("check").arg(shipped).env("EVERLINK_TOKEN_FILE", token).output();
    let checked = checked.expect("run");
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let told = text(&checked);
    assert!(!told.contains("warning") && told.contains("14s"), "{told}");
}

#[test]
fn the_demo_runs_without_a_terminal_and_takes_edits() {
    let ports = five_ports();
    let (place, command) = demo(ports);
    let mut program = Program::start_as(place, command);
    assert_eq!(program.http(), at(ports[2]));
    program.until_up("echo");
    assert_eq!(exchange(at(ports[0]), b"hello").expect("carried"), b"hello");
    assert_eq!(exchange(at(ports[0]), b"ping").expect("carried"), b"pong");
    program.until_up("site");
    assert_eq!(exchange(at(ports[3]), b"hello").expect("through the tunnel"), b"hello");
    let config = std::fs::read_to_string(program.place.config()).expect("read");
    program.place.replace(&config.replace("interval = \"5s\"", "interval = \"2s\""));
    program.until_metric("everlink_heartbeat_interval_seconds{upstream=\"echo\"}", 2.0);
    assert!(program.ask(&["reload"]).status.success());
    program.signal("TERM");
    assert!(program.ended().success());
}

#[test]
fn the_demo_says_which_port_is_taken() {
    let rival = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = rival.local_addr().expect("an address");
    let (place, command) = demo([free_port(), taken.port(), free_port(), free_port(), free_port()]);
    let mut program = Program::spawn(place, command);
    assert_eq!(program.ended().code(), Some(1));
    eventually("told", || program.logged(&format!("cannot listen on {taken}")) == 1);
}

/// A program on a terminal of its own, ended by what it makes of `q`.
struct Terminal {
    child: std::process::Child,
    ended: bool,
}

impl Terminal {
    fn type_line(&mut self, line: &str) {
        let keys = self.child.stdin.as_mut().expect("a pipe");
        keys.write_all(format!("{line}\n").as_bytes()).expect("typed");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if !self.ended {
            let id = self.child.id();
            let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            children
                .split_whitespace()
                .filter_map(|id| id.parse().ok())
                .for_each(|id| harness::send_signal("KILL", id));
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// What the demo is for: the link is cut silently, and a connection that is open goes on afterwards.
fn a_connection_outlives_the_cut(terminal: &mut Terminal, tunnel: SocketAddr, http: SocketAddr) {
    use std::io::Read;
    let mut client = std::net::TcpStream::connect(tunnel).expect("connected");
    let mut say = |text: &[u8], within: Duration| {
        client.set_read_timeout(Some(within)).expect("set");
        client.write_all(text).expect("sent");
        let mut answer = vec![0; text.len()];
        client.read_exact(&mut answer).map(|()| answer)
    };
    assert_eq!(say(b"before", Duration::from_secs(10)).expect("answered"), b"before");
    let began = Instant::now();
    terminal.type_line("c");
    // The key has been heard once nothing comes back.
    let mut unheard = 0;
    while say(b"x", Duration::from_millis(500)).is_ok() {
        assert!(began.elapsed() < harness::PATIENCE, "the link was not cut");
        unheard += 1;
        std::thread::yield_now();
    }
    let after = say(b"after", Duration::from_secs(30)).expect("answered");
    let took = began.elapsed();
    // The byte said into the cut comes first.
    assert_eq!(after, b"xafte", "{unheard}");
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(30), "{took:?}");
    eventually("counted", || {
        let body = get(http, "/metrics").expect("answered").1;
        harness::sum(&body, "everlink_session_streams_saved_total", "site") >= 1.0
    });
}

#[test]
fn on_a_terminal_the_demo_stops_its_server_and_the_link_falls_and_returns() {
    let ports = five_ports();
    let place = Place::new(&shipped(ports).replace("max = \"30s\"", "max = \"1s\""));
    let line = format!("exec {EVERLINK} demo --config {}", place.config().display());
    let child = Command::new("script")
        .args(["-qefc", &line])
        .arg(place.at("typescript"))
        .env("EVERLINK_ADMIN", place.at("admin.sock"))
        .env("EVERLINK_TOKEN_FILE", place.at("token"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script runs");
    let mut terminal = Terminal { child, ended: false };
    let up_of = |upstream: &str| {
        let (_, body) = get(at(ports[2]), "/metrics").ok()?;
        let series = format!("everlink_upstream_up{{upstream=\"{upstream}\"}} ");
        body.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned)
    };
    let up = || up_of("echo");
    eventually("up", || up().as_deref() == Some("1"));
    eventually("the tunnel is up", || up_of("site").as_deref() == Some("1"));
    terminal.type_line("h");
    a_connection_outlives_the_cut(&mut terminal, at(ports[3]), at(ports[2]));
    let began = Instant::now();
    terminal.type_line("s");
    eventually("down", || up().as_deref() == Some("0"));
    eventually("up again", || up().as_deref() == Some("1"));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(30), "{took:?}");
    assert_eq!(exchange(at(ports[0]), b"hello").expect("carried"), b"hello");
    eventually("both again", || {
        let body = get(at(ports[2]), "/metrics").expect("answered").1;
        harness::sum(&body, "everlink_link_reconnects_total", "echo") == 2.0
    });
    let shown = || std::fs::read_to_string(place.at("typescript")).expect("read");
    eventually("and the demo's own client", || shown().contains("the server is back after"));
    terminal.type_line("q");
    eventually("ended", || terminal.child.try_wait().expect("waited").is_some_and(|status| status.success()));
    terminal.ended = true;
    let shown = shown();
    for told in [
        // At the start, on a key that means nothing, after the cut, after the stop, at the end.
        "status --watch",
        "s and Enter to stop",
        "bytes that waited have come back on the same connection, each in its place: none lost, none twice",
        "the server is back after",
        "none lost, none twice; ",
        "link up",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(!shown.contains("{\"timestamp\"") && !shown.contains("what was left is reset"), "{shown}");
}
