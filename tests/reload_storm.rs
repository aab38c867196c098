//! A person tunes at noon: edit after edit, saved in every way there is, good ones and bad ones, under load, at a sidecar
//! and at a gateway. Each takes effect or is refused with the reason, and nobody who is connected notices.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::{Echo, Flow, Place, Program, eventually, exchange, free_port, top};

const GOOD: &str = "everlink_config_last_reload_successful";

/// The file of a program whose heartbeat beats once in so many milliseconds: the number that is tuned.
type Text = Box<dyn Fn(u32) -> String + Send + Sync>;

/// Saves a file in some way: path, what it holds, what it is to hold.
type Save = fn(&Path, &str, &str);

fn beside(path: &Path, name: &str) -> PathBuf {
    path.with_file_name(name)
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
}

/// Runs a program that must be there, and must succeed.
fn run(package: &str, command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}: apt-get install {package}"));
    assert!(output.status.success(), "{command:?}: {}", harness::text(&output));
}

fn shell(package: &str, path: &Path, script: &str) {
    run(
        package,
        Command::new("sh").args(["-ec", script, "sh"]).arg(path).current_dir(path.parent().expect("a parent")),
    );
}

/// `s#old#new#` of the line that differs.
fn substitution(old: &str, new: &str) -> String {
    let differs = |(a, b): &(&str, &str)| a != b;
    let (old, new) = old.lines().zip(new.lines()).find(differs).expect("a difference");
    format!("s#{old}#{new}#")
}

fn in_place(path: &Path, _: &str, new: &str) {
    put(path, new);
}

fn in_pieces(path: &Path, _: &str, new: &str) {
    let mut file = fs::File::create(path).expect("truncated");
    for piece in new.as_bytes().chunks(100) {
        file.write_all(piece).expect("written");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn over_it(path: &Path, _: &str, new: &str) {
    let mut file = fs::File::create(beside(path, ".new")).expect("created");
    file.write_all(new.as_bytes()).expect("written");
    file.sync_all().expect("synced");
    fs::rename(beside(path, ".new"), path).expect("renamed");
}

fn moved_over_it(path: &Path, _: &str, new: &str) {
    put(&beside(path, "prepared"), new);
    shell("coreutils", path, "mv prepared \"$1\"");
}

fn copied_over_it(path: &Path, _: &str, new: &str) {
    put(&beside(path, "prepared"), new);
    shell("coreutils", path, "cp prepared \"$1\"");
}

fn by_sed(path: &Path, old: &str, new: &str) {
    run("sed", Command::new("sed").arg("-i").arg(substitution(old, new)).arg(path));
}

fn by_perl(path: &Path, old: &str, new: &str) {
    run("perl", Command::new("perl").args(["-i", "-pe"]).arg(substitution(old, new)).arg(path));
}

fn by_ed(path: &Path, old: &str, new: &str) {
    let script = format!("printf '%s\\n' ',{}' w q | ed -s \"$1\"", substitution(old, new));
    shell("ed", path, &script);
}

fn by_vim(path: &Path, old: &str, new: &str, more: &str) {
    let substitute = format!("%{}", substitution(old, new));
    let settings = format!("set backupskip= {more}");
    let mut vim = Command::new("vim");
    vim.args(["-N", "-u", "NONE", "-i", "NONE", "-es", "-c", &settings, "-c", &substitute, "-c", "wq"]).arg(path);
    run("vim", &mut vim);
}

fn by_vim_renaming(path: &Path, old: &str, new: &str) {
    by_vim(path, old, new, "backup writebackup backupcopy=no");
}

fn by_vim_in_place(path: &Path, old: &str, new: &str) {
    by_vim(path, old, new, "nowritebackup backupcopy=yes");
}

/// The lock beside the file, the old file moved away as a backup, a new one in its place.
fn as_emacs_does(path: &Path, _: &str, new: &str) {
    symlink("somebody@somewhere.1234:5678", beside(path, ".#config.toml")).expect("a link");
    put(&beside(path, "#config.toml#"), new);
    fs::rename(path, beside(path, "config.toml~")).expect("renamed");
    put(path, new);
    fs::remove_file(beside(path, "#config.toml#")).expect("removed");
    fs::remove_file(beside(path, ".#config.toml")).expect("removed");
}

fn by_python(path: &Path, _: &str, new: &str) {
    put(&beside(path, "wanted"), new);
    let script = "import sys; f = open(sys.argv[1], 'w'); f.write(open('wanted').read()); f.flush(); f.close()";
    let mut python = Command::new("python3");
    run("python3", python.args(["-c", script]).arg(path).current_dir(path.parent().expect("a parent")));
}

fn by_git(path: &Path, old: &str, new: &str) {
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main";
    put(path, old);
    shell("git", path, &format!("rm -rf .git; {git} init -q; {git} add config.toml; {git} commit -qm old"));
    shell("git", path, &format!("{git} checkout -qb other"));
    // The other branch is made without the file's own directory: what is seen is the checkout.
    put(&beside(path, "wanted"), new);
    let commit = "blob=$(git hash-object -w wanted) && git update-index --cacheinfo 100644,$blob,config.toml";
    shell("git", path, &format!("{commit} && {git} commit -qm new && {git} checkout -q --force other"));
}

fn by_rsync(path: &Path, _: &str, new: &str) {
    let from = tempfile::tempdir().expect("a directory");
    put(&from.path().join("config.toml"), new);
    run("rsync", Command::new("rsync").args(["-a", "--checksum"]).arg(from.path().join("config.toml")).arg(path));
}

fn removed_and_made(path: &Path, _: &str, new: &str) {
    fs::remove_file(path).expect("removed");
    put(path, new);
}

fn empty_for_a_moment(path: &Path, _: &str, new: &str) {
    put(path, "");
    std::thread::sleep(Duration::from_millis(50));
    put(path, new);
}

fn away_and_back(path: &Path, _: &str, new: &str) {
    fs::rename(path, beside(path, "away")).expect("renamed");
    put(&beside(path, "away"), new);
    std::thread::sleep(Duration::from_millis(30));
    fs::rename(beside(path, "away"), path).expect("renamed");
}

fn by_a_link(path: &Path, _: &str, new: &str) {
    let versions = fs::read_dir(path.parent().expect("a parent")).expect("read").count();
    let version = format!("version-{versions}");
    put(&beside(path, &version), new);
    symlink(&version, beside(path, "next")).expect("a link");
    fs::rename(beside(path, "next"), path).expect("renamed");
}

/// As the kubelet does, the old directory removed right after.
fn by_a_config_map(path: &Path, _: &str, new: &str) {
    let data = beside(path, "..data");
    let old = fs::read_link(&data).ok();
    let count: u32 = old.iter().filter_map(|old| old.to_str()?.trim_start_matches("..v").parse::<u32>().ok()).sum();
    let version = format!("..v{}", count + 1);
    fs::create_dir(beside(path, &version)).expect("a directory");
    put(&beside(path, &version).join("config.toml"), new);
    symlink(&version, beside(path, "..data_tmp")).expect("a link");
    fs::rename(beside(path, "..data_tmp"), &data).expect("renamed");
    if let Some(old) = old {
        fs::remove_dir_all(beside(path, &old.to_string_lossy())).expect("removed");
    }
    if fs::symlink_metadata(path).map_or(true, |found| !found.is_symlink()) {
        symlink("..data/config.toml", beside(path, "next")).expect("a link");
        fs::rename(beside(path, "next"), path).expect("renamed");
    }
}

/// Each edit before the program can have taken the one before it; the last is the one that counts.
fn a_fast_series(path: &Path, old: &str, new: &str) {
    for n in 0..25 {
        put(&beside(path, ".new"), if n % 2 == 0 { new } else { old });
        fs::rename(beside(path, ".new"), path).expect("renamed");
        std::thread::sleep(Duration::from_millis(20));
    }
    over_it(path, old, new);
}

/// What is wrong with a file, and how its place and reason are told.
type Spoil = (fn(&str) -> String, &'static str);

const SPOILT: [Spoil; 5] = [
    (|text| text.replacen("ms\"", "\"", 1), "config.toml:1:"),
    (|text| format!("heartbeet = 1\n{text}"), "config.toml:1:1: unknown key"),
    (|text| text.replacen('"', "", 1), "config.toml:1:"),
    (|_| String::new(), "config.toml: the file is empty"),
    (|text| text.replacen("heartbeat.interval", "heartbeat.misses = 0, interval", 1), "config.toml:1:"),
];

/// One program and the hand that edits its file.
struct Lane {
    name: &'static str,
    program: Program,
    text: Text,
    /// The first number, and how many good edits have been in force.
    number: u32,
    good: f64,
}

impl Lane {
    fn new(name: &'static str, text: Text) -> Self {
        let number = 5000;
        let program = Program::start(&text(number));
        Self { name, program, text, number, good: 0.0 }
    }

    /// The number in force.
    fn in_force(&self) -> Option<u32> {
        let effective = self.program.get("/status?config").1;
        let line = effective.lines().find(|line| line.starts_with("interval = "))?;
        let time = everlink::config::duration(line.split('"').nth(1)?).ok()?;
        u32::try_from(time.as_millis()).ok()
    }

    fn save(&mut self, how: &str, save: Save) {
        let (old, number) = ((self.text)(self.number), self.number + 1);
        save(&self.program.place.config(), &old, &(self.text)(number));
        eventually(&format!("{}: in force, saved {how}", self.name), || self.in_force() == Some(number));
        eventually("told as good", || self.program.metric(GOOD) == Some(1.0));
        self.number = number;
        self.good += 1.0;
    }

    fn spoil(&self, (spoil, told): Spoil) {
        let (rejected, lines) = (self.program.reloads("rejected"), self.program.log().len());
        self.program.place.replace(&spoil(&(self.text)(self.number + 1)));
        eventually(&format!("{}: {told}: refused", self.name), || self.program.reloads("rejected") > rejected);
        eventually("told", || {
            let log = self.program.log();
            log[lines..].iter().any(|line| line.contains("configuration rejected") && line.contains(told))
        });
        assert_eq!(self.program.metric(GOOD), Some(0.0), "{told}");
        assert_eq!(self.in_force(), Some(self.number), "{told}");
        let last = &self.program.status()["config"]["last_reload"];
        let why = last["lines"][0].as_str().unwrap_or_default();
        assert!(last["outcome"] == "rejected" && why.contains(told), "{last}");
        // Put right, and that is told, too.
        let right = || self.program.logged("configuration unchanged: what was rejected is put right");
        let before = right();
        self.program.place.replace(&(self.text)(self.number));
        eventually("put right", || right() > before && self.program.metric(GOOD) == Some(1.0));
    }

    /// Means the same: nothing changes, and it is told so.
    fn touch(&self, how: &str, save: impl Fn(&Path)) {
        let unchanged = self.program.reloads("unchanged");
        save(&self.program.place.config());
        eventually(&format!("{}: {how}", self.name), || self.program.reloads("unchanged") > unchanged);
        assert_eq!(self.in_force(), Some(self.number), "{how}");
    }

    fn all(mut self, saves: &[(&str, Save)]) -> Self {
        let mut spoilt = SPOILT.iter().cycle();
        for (n, (how, save)) in saves.iter().enumerate() {
            self.save(how, *save);
            if n % 3 == 1 {
                self.spoil(*spoilt.next().expect("some"));
            }
        }
        self
    }

    /// What was counted is what was told.
    fn counts(&self) {
        let told = |outcome: &str, by: &str| {
            let is_told = || self.program.reloads(outcome) == self.program.logged(by) as f64;
            eventually(&format!("{}: each reload that was {outcome} is told", self.name), is_told);
            self.program.reloads(outcome)
        };
        let number = if self.name == "gateway" { "gateway.heartbeat" } else { "a: heartbeat" };
        let applied = told("applied", &format!("configuration applied: {number}.interval"));
        assert!(applied >= self.good, "{}", self.name);
        told("unchanged", "configuration unchanged");
        told("rejected", "configuration rejected");
    }
}

/// Clients that come, exchange a few bytes that are checked, and go.
struct Churn {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), String>>,
}

impl Churn {
    fn start(addresses: Vec<SocketAddr>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for address in &addresses {
                    let words = format!("client {} of {address}", count.fetch_add(1, Ordering::SeqCst));
                    let back = exchange(*address, words.as_bytes()).map_err(|error| format!("{words}: {error}"))?;
                    if back != words.as_bytes() {
                        return Err(format!("{words}: other bytes came back"));
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        Self { stop, done, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic").expect("every client was served");
        self.done.load(Ordering::SeqCst)
    }
}

/// A sidecar with an upstream of either mode.
fn sidecar(echo: SocketAddr, gateway: u16, token: &Path) -> Text {
    let rest = format!(
        "{}[upstreams.a]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{echo}\"]\nheartbeat = {{ send = \"ping\", expect = \"pong\" }}\n\
         [upstreams.t]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:{gateway}\"]\ntoken_file = {token:?}\n\
         forwards = [{{ listen = \"127.0.0.1:0\", service = \"echo\" }}]\n",
        top()
    );
    Box::new(move |interval| format!("defaults.heartbeat.interval = \"{interval}ms\"\n{rest}"))
}

fn gateway(echo: SocketAddr, port: u16, token: &Path) -> Text {
    let rest = format!(
        "{}gateway.listen = \"127.0.0.1:{port}\"\ngateway.token_file = {token:?}\ngateway.services.echo = \"{echo}\"\n",
        top()
    );
    Box::new(move |interval| format!("gateway.heartbeat.interval = \"{interval}ms\"\n{rest}"))
}

#[test]
fn fifty_edits_under_load_are_each_in_force_or_refused_with_the_reason_and_nobody_notices() {
    let echo = Echo::start();
    let secrets = tempfile::tempdir().expect("a directory");
    let (token, port) = (secrets.path().join("token"), free_port());
    put(&token, "open sesame, and be quick about it");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("set");

    let far = Lane::new("gateway", gateway(echo.address, port, &token));
    let near = ["one", "two", "three"].map(|name| Lane::new(name, sidecar(echo.address, port, &token)));
    let doors: Vec<SocketAddr> =
        near.iter().flat_map(|lane| ["a", "t"].map(|name| lane.program.listens(name))).collect();
    for lane in &near {
        lane.program.until_links("a", 2.0);
        lane.program.until_links("t", 1.0);
    }
    let flows: Vec<Flow> = doors.iter().map(|door| Flow::start(*door)).collect();
    flows.iter().for_each(|flow| flow.until_moved(1));
    let churn = Churn::start(doors);
    let tunnel_dials = |lane: &Lane| lane.program.sum("everlink_link_dials_total", "upstream=\"t\"");
    let dials: Vec<f64> = near.iter().map(tunnel_dials).collect();

    let plain: [(&str, Save); 12] = [
        ("in place", in_place),
        ("by vim, which renames", by_vim_renaming),
        ("in pieces", in_pieces),
        ("by sed -i", by_sed),
        ("by ed", by_ed),
        ("renamed over it", over_it),
        ("by vim, in place", by_vim_in_place),
        ("as emacs does", as_emacs_does),
        ("by perl -i", by_perl),
        ("removed and made anew", removed_and_made),
        ("by cp", copied_over_it),
        ("by mv", moved_over_it),
    ];
    let odd: [(&str, Save); 12] = [
        ("by python", by_python),
        ("empty for a moment", empty_for_a_moment),
        ("by rsync", by_rsync),
        ("renamed away and back", away_and_back),
        ("in a fast series", a_fast_series),
        ("by git checkout", by_git),
        ("by sed -i", by_sed),
        ("by another link", by_a_link),
        ("by another link, again", by_a_link),
        ("renamed over the link", over_it),
        ("in place", in_place),
        ("in a fast series, again", a_fast_series),
    ];
    let mounted: [(&str, Save); 10] = [("by a ConfigMap", by_a_config_map); 10];
    let [one, two, three] = near;
    let (far, near) = std::thread::scope(|scope| {
        let far = scope.spawn(|| {
            let far = far.all(&plain);
            far.touch("touched", |path| run("coreutils", Command::new("touch").arg(path)));
            far
        });
        let one = scope.spawn(|| {
            let mut one = one.all(&plain);
            // While a reload runs: whoever asks for one, and the watch, meet the next edit.
            let hup = |path: &Path, old: &str, new: &str| {
                over_it(path, old, new);
            };
            one.program.signal("HUP");
            one.save("while a reload runs", hup);
            one
        });
        let two = scope.spawn(|| {
            let two = two.all(&odd);
            two.touch("another mode", |path| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o640)).expect("set")
            });
            two
        });
        let three = scope.spawn(|| {
            let three = three.all(&mounted);
            let same = (three.text)(three.number);
            three.touch("a comment", |path| by_a_config_map(path, "", &format!("{same}# noon\n")));
            eventually("told", || three.program.logged("the file was edited, and means the same") == 1);
            three
        });
        let near = [one, two, three].map(|lane| lane.join().expect("no panic"));
        (far.join().expect("no panic"), near)
    });

    flows.iter().for_each(|flow| flow.until_moved(10_000));
    assert!(churn.end() > 100, "clients came all the while");
    for flow in flows {
        flow.end().expect("whole");
    }
    let edits: f64 = near.iter().chain([&far]).map(|lane| lane.good + lane.program.reloads("rejected")).sum();
    assert!(edits > 50.0, "{edits} edits");
    for (lane, dials) in near.iter().zip(dials) {
        let is_zero =
            |family: &str, with: &str| assert_eq!(lane.program.sum(family, with), 0.0, "{}: {family}", lane.name);
        is_zero("everlink_link_losses_total", "");
        is_zero("everlink_link_reconnects_total", "");
        is_zero("everlink_connections_refused_total", "");
        is_zero("everlink_session_resumes_total", "");
        assert_eq!(tunnel_dials(lane), dials, "{}: the tunnel was dialled again", lane.name);
        lane.counts();
    }
    assert_eq!(far.program.sum("everlink_gateway_refusals_total", ""), 0.0);
    far.counts();
}

/// Without inotify the poll sees every edit.
#[test]
fn where_inotify_is_refused_every_edit_is_in_force_all_the_same() {
    let echo = Echo::start();
    let text = |interval: u32| {
        format!("{}{}", top(), harness::upstream("a", "127.0.0.1:0", echo.address, &format!("{interval}ms"), ""))
    };
    let place = Place::new(&text(5000));
    let mut command = Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" --config \"$1\"";
    command.args(["--user", "--map-root-user", "sh", "-c", script, harness::EVERLINK]).arg(place.config());
    let program = Program::start_as(place, command);
    assert_eq!(program.logged("so its files are looked at once a second instead"), 1);
    program.until_links("a", 2.0);
    let (flow, dials) = (Flow::start(program.listens("a")), program.sum("everlink_link_dials_total", ""));
    let saves: [Save; 5] = [in_place, over_it, by_sed, removed_and_made, by_a_config_map];
    for (n, save) in (5000..).zip(saves) {
        save(&program.place.config(), &text(n), &text(n + 1));
        program.until_metric(
            "everlink_heartbeat_interval_seconds{upstream=\"a\"}",
            Duration::from_millis(u64::from(n) + 1).as_secs_f64(),
        );
    }
    flow.until_moved(1);
    flow.end().expect("whole");
    assert_eq!(program.sum("everlink_link_losses_total", ""), 0.0);
    assert!(program.sum("everlink_link_dials_total", "") <= dials + 1.0, "but for the one in the client's place");
    eventually("all counted", || program.reloads("applied") == 5.0);
}

/// A single file that is mounted: a container's bind mount, Kubernetes' `subPath`.
#[test]
fn a_mounted_single_file_is_followed_in_place_and_its_replacement_is_warned_about() {
    let echo = Echo::start();
    let text = |interval: u32| {
        format!("{}{}", top(), harness::upstream("a", "127.0.0.1:0", echo.address, &format!("{interval}ms"), ""))
    };
    let place = Place::new(&text(5000));
    put(&place.at("mounted.toml"), "");
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$2\" && exec \"$0\" --config \"$2\"";
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, harness::EVERLINK]);
    command.arg(place.config()).arg(place.at("mounted.toml"));
    let program = Program::start_as(place, command);
    program.until_up("a");
    let flow = Flow::start(program.listens("a"));
    const INTERVAL: &str = "everlink_heartbeat_interval_seconds{upstream=\"a\"}";
    in_place(&program.place.config(), "", &text(6000));
    program.until_metric(INTERVAL, 6.0);
    over_it(&program.place.config(), "", &text(7000));
    eventually("warned about", || program.logged("this file was replaced outside of the mount that shows it") == 1);
    assert_eq!(program.interval("a"), Some(6.0));
    flow.until_moved(10_000);
    flow.end().expect("whole");
}
