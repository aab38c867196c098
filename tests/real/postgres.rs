//! A real PostgreSQL behind everlink. Before login it takes no harmless question, so its links are proven by the kernel.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::program::{
    Daemon, Program, command, directory, finished, free_port, program, succeeded, user, wait_until, wait_within,
};
use crate::faults::net::Namespace;

/// A cluster of its own. The server refuses to run as root, so root runs it as the user of the Debian package.
pub(super) struct Postgres<'n> {
    pub(super) port: u16,
    /// Where it runs, if not here.
    place: Option<&'n Namespace>,
    directory: TempDir,
    settings: Vec<String>,
    server: Option<Daemon>,
}

impl<'n> Postgres<'n> {
    /// `settings`: further `name=value` of the server.
    fn start(settings: &[&str]) -> Self {
        Self::start_in(None, settings)
    }

    pub(super) fn start_in(place: Option<&'n Namespace>, settings: &[&str]) -> Self {
        let directory = directory();
        if user() == 0 {
            let id = |flag| succeeded(command("id").args([flag, "postgres"])).trim().parse().expect("a number");
            chown(directory.path(), Some(id("-u")), Some(id("-g"))).expect("given to the user postgres");
        }
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut postgres = Self { port: free_port(), place, directory, settings, server: None };
        let data = postgres.directory.path().join("data");
        let mut initdb = unprivileged("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--no-locale", "--encoding=UTF8", "-D"]);
        succeeded(initdb.arg(data).current_dir(postgres.directory.path()));
        postgres.start_again();
        postgres
    }

    fn start_again(&mut self) {
        self.begin_again();
        let server = self.server.take().expect("begun");
        let serves = || {
            let mut psql = self.there(psql(self.port));
            psql.arg("-c").arg("select").output().is_ok_and(|output| output.status.success())
        };
        self.server = Some(server.until_ready(serves));
    }

    /// Starts it, and does not wait until it serves.
    fn begin_again(&mut self) {
        let mut server = unprivileged("postgres");
        server.arg("-D").arg(self.directory.path().join("data")).current_dir(self.directory.path());
        let port = format!("port={}", self.port);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", &port] {
            server.args(["-c", setting]);
        }
        for setting in &self.settings {
            server.args(["-c", setting]);
        }
        let mut server = self.there(server);
        self.server = Some(Daemon::start(&mut server, &self.directory.path().join("log")));
    }

    fn there(&self, command: Command) -> Command {
        match self.place {
            Some(place) => place.enclose(&command),
            None => command,
        }
    }

    /// A fast shutdown: clients are cut, nothing is lost.
    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            assert!(server.end_by("INT").success());
        }
    }

    fn behind_everlink(&self, more: &str) -> Program {
        let everlink = Program::start(&self.upstream(more));
        everlink.until_up("orders", everlink.upstream("orders").links.len());
        everlink
    }

    fn upstream(&self, more: &str) -> String {
        format!(
            "[upstreams.orders]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             retry = {{ initial = \"100ms\", max = \"1s\" }}\n{more}",
            self.port
        )
    }
}

impl Drop for Postgres<'_> {
    fn drop(&mut self) {
        // Killed, it would leave its shared memory behind.
        if let Some(server) = self.server.take() {
            server.end_by("INT");
        }
    }
}

/// A program of the server that must not run as root.
fn unprivileged(name: &str) -> Command {
    if user() != 0 {
        return command(name);
    }
    let mut command = Command::new(program("setpriv"));
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--pdeathsig", "KILL", "--"]);
    command.arg(program(name)).stdin(Stdio::null());
    command
}

pub(super) fn connected(name: &str, port: u16) -> Command {
    let mut command = command(name);
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]);
    // What the environment says about other servers must not matter.
    for name in ["PGSERVICE", "PGSSLMODE", "PGOPTIONS", "PGDATABASE", "PGHOSTADDR"] {
        command.env_remove(name);
    }
    command
}

fn psql(port: u16) -> Command {
    let mut psql = connected("psql", port);
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
    psql
}

const UP: &str = r#"everlink_upstream_up{upstream="orders"}"#;
const DOWNTIME: &str = r#"everlink_link_downtime_seconds_total{upstream="orders"}"#;

fn count(everlink: &Program, metric: &str, label: &str) -> f64 {
    everlink.metric(&format!(r#"{metric}{{{label},upstream="orders"}}"#))
}

#[test]
fn psql_works_through_everlink() {
    let postgres = Postgres::start(&[]);
    let everlink = postgres.behind_everlink("");
    let port = everlink.listener("orders").port();
    assert_eq!(succeeded(psql(port).args(["-c", "select 6 * 7"])), "42\n");
    // 20 MB of answer, and a question of a megabyte.
    let rows = succeeded(psql(port).args(["-c", "select repeat('x', 1000) from generate_series(1, 20000)"]));
    assert_eq!(rows.len(), 20_000 * 1001);
    let question = postgres.directory.path().join("question.sql");
    std::fs::write(&question, format!("select length('{}')", "y".repeat(1 << 20))).expect("written");
    assert_eq!(succeeded(psql(port).arg("-f").arg(question)), "1048576\n");
    // A server's own error reaches the client as such.
    let refused = psql(port).args(["-c", "select 1 / 0"]).output().expect("psql");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("division by zero"));
    assert_eq!(everlink.metric(r#"everlink_heartbeats_sent_total{upstream="orders"}"#), 0.0);
    everlink.stop();
}

#[test]
fn pgbench_completes_through_everlink_without_a_failed_transaction() {
    let postgres = Postgres::start(&[]);
    let everlink = postgres.behind_everlink("pool.size = 4\n");
    let port = everlink.listener("orders").port();
    succeeded(connected("pgbench", port).args(["-i", "-q", "-s", "1", "postgres"]));
    let said = succeeded(connected("pgbench", port).args(["-c", "8", "-j", "2", "-T", "5", "postgres"]));
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
    let again = succeeded(connected("pgbench", port).args(["-c", "4", "-t", "25", "-C", "-S", "postgres"]));
    assert!(again.contains("number of transactions actually processed: 100/100"), "{again}");
    assert!(again.contains("number of failed transactions: 0 (0.000%)"), "{again}");
    wait_until("all clients are gone", || everlink.metric(r#"everlink_connections{upstream="orders"}"#) == 0.0);
    for reason in ["dead", "error", "upstream_reset"] {
        assert_eq!(count(&everlink, "everlink_connections_closed_total", &format!("reason=\"{reason}\"")), 0.0);
    }
    everlink.stop();
}

/// PostgreSQL waits for each connection that it accepted while it shut down, up to `authentication_timeout`: a minute.
#[test]
fn a_restart_of_the_server_is_survived_and_not_held_up() {
    let mut postgres = Postgres::start(&[]);
    let everlink = postgres.behind_everlink("limits.wait = \"20s\"\n");
    let port = everlink.listener("orders").port();
    assert_eq!(succeeded(psql(port).args(["-c", "create table t as select 1 as x"])), "");
    let told = Instant::now();
    postgres.stop();
    assert!(told.elapsed() < Duration::from_secs(15), "the shutdown took {:?}", told.elapsed());
    wait_until("the outage is seen", || everlink.metric(UP) == 0.0);
    let waiting = std::thread::spawn(move || finished(psql(port).args(["-c", "select x from t"])));
    wait_until("a client waits", || everlink.metric(r#"everlink_connections_waiting{upstream="orders"}"#) == 1.0);
    postgres.start_again();
    let back = Instant::now();
    everlink.until_up("orders", 2);
    let took = back.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} after the server, with `retry.max` of 1 s");
    let waited = waiting.join().expect("no panic");
    // The server takes connections a moment before it can serve them, and says so in its own words.
    let early = String::from_utf8_lossy(&waited.stderr).contains("the database system is starting up");
    assert!(early || waited.stdout == b"1\n", "the client that waited hears the server: {waited:?}");
    wait_until("served", || finished(psql(port).args(["-c", "select x from t"])).stdout == b"1\n");
    everlink.stop();
}

/// While it recovers, PostgreSQL accepts connections for good that it will not serve: they say so whenever they are asked.
#[test]
fn a_link_that_was_made_during_a_recovery_is_given_to_nobody_afterwards() {
    let mut postgres = Postgres::start(&[]);
    let everlink = postgres.behind_everlink("");
    let port = everlink.listener("orders").port();
    // Ended at once with much to do again: the recovery takes a moment, in which links are made.
    succeeded(psql(port).args(["-c", "create table t as select generate_series(1, 2000000) as x"]));
    succeeded(psql(port).args(["-c", "update t set x = x + 1"]));
    postgres.server.take().expect("running").end_by("QUIT");
    wait_until("everlink knows", || everlink.metric(UP) == 0.0);
    let dials = count(&everlink, "everlink_link_dials_total", "outcome=\"ok\"");
    postgres.begin_again();
    wait_until("links were made", || count(&everlink, "everlink_link_dials_total", "outcome=\"ok\"") >= dials + 2.0);
    wait_until("it serves", || psql(postgres.port).args(["-c", "select 1"]).output().is_ok_and(|o| o.status.success()));
    // Each link is made anew at the latest when it is twice as old as the first was then.
    let aged = || count(&everlink, "everlink_link_losses_total", "reason=\"aged\"");
    let before = aged();
    wait_until("links are made anew", || aged() >= before + 2.0);
    for _ in 0..4 {
        assert_eq!(succeeded(psql(port).args(["-c", "select 1"])), "1\n");
    }
    everlink.stop();
}

/// A `psql` that is told one line after the other.
struct Conversation {
    psql: std::process::Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Conversation {
    fn start(port: u16) -> Self {
        let mut psql = psql(port).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql");
        let (input, output) = (psql.stdin.take().expect("a pipe"), psql.stdout.take().expect("a pipe"));
        Self { psql, input, output: BufReader::new(output) }
    }

    /// `statement` answers with one line.
    fn ask(&mut self, statement: &str) -> String {
        writeln!(self.input, "{statement};").expect("told");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("answered");
        line.trim_end().to_owned()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

#[test]
fn a_client_and_the_links_survive_an_edit_of_the_heartbeat() {
    let postgres = Postgres::start(&[]);
    let everlink = postgres.behind_everlink("heartbeat.interval = \"5s\"\n");
    let mut client = Conversation::start(everlink.listener("orders").port());
    let backend = client.ask("select pg_backend_pid()");
    everlink.until_up("orders", 2);
    let dials = count(&everlink, "everlink_link_dials_total", "outcome=\"ok\"");
    let started = client.ask("create temporary table mine as select 1; select 'kept'");
    assert_eq!(started, "kept");

    everlink.edit(&postgres.upstream("heartbeat.interval = \"2s\"\n"));
    wait_until("the edit is in force", || {
        everlink.metric(r#"everlink_heartbeat_interval_seconds{upstream="orders"}"#) == 2.0
    });
    assert_eq!(client.ask("select pg_backend_pid()"), backend, "the very same connection");
    assert_eq!(client.ask("select count(*) from mine"), "1", "and all that it held");
    assert_eq!(
        count(&everlink, "everlink_link_dials_total", "outcome=\"ok\""),
        dials,
        "not one link was dialled again"
    );
    assert_eq!(everlink.metric(r#"everlink_connections{upstream="orders"}"#), 1.0);
    let told = everlink.logged("heartbeat.interval 5s → 2s").expect("told in the log");
    assert!(told.contains("live") && told.contains("2 links kept"), "{told}");
    everlink.stop();
}

/// PostgreSQL ends connections that do not log in within `authentication_timeout`, a minute unless told otherwise: warm
/// ones are just that.
#[test]
fn links_that_the_server_cuts_for_not_logging_in_are_renewed_before_it_does() {
    let postgres = Postgres::start(&["authentication_timeout=6s"]);
    let everlink = postgres.behind_everlink("");
    let before = everlink.metric(DOWNTIME);
    wait_within(Duration::from_secs(60), "everlink is earlier than the server", || {
        assert_eq!(everlink.metric(UP), 1.0, "a cut by the server's timer is no outage");
        everlink.upstream("orders").learned_max_age_seconds.is_some()
    });
    let learned = everlink.upstream("orders").learned_max_age_seconds.expect("learned");
    let aged = || count(&everlink, "everlink_link_losses_total", "reason=\"aged\"");
    let before_that = aged();
    wait_until("links are renewed by it", || aged() >= before_that + 2.0);
    assert!((4.0..6.0).contains(&learned), "{learned}");
    let cuts = count(&everlink, "everlink_link_losses_total", "reason=\"closed\"");
    let port = everlink.listener("orders").port();
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        assert_eq!(succeeded(psql(port).args(["-c", "select 1"])), "1\n");
    }
    assert_eq!(count(&everlink, "everlink_link_losses_total", "reason=\"closed\""), cuts, "never too late again");
    assert_eq!(everlink.metric(DOWNTIME), before);
    assert!(TcpStream::connect(("127.0.0.1", postgres.port)).is_ok());
    everlink.stop();
}
