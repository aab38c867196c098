//! Edits of the configuration while the program runs: every way of saving one, what it may change, what it must not.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Echo, Flow, Place, Program, eventually, exchange, free_port, one, top, upstream};

const INTERVAL: &str = "everlink_heartbeat_interval_seconds{upstream=\"a\"}";
const GOOD: &str = "everlink_config_last_reload_successful";

fn with_interval(echo: &Echo, interval: &str) -> String {
    format!("{}{}", top(), upstream("a", "127.0.0.1:0", echo.address, interval, ""))
}

fn sure(command: &mut Command) {
    assert!(command.status().expect("it runs").success(), "{command:?}");
}

#[test]
fn every_way_of_saving_is_in_force_within_a_second() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    let place = &program.place;
    let config = |interval: u32| with_interval(&echo, &format!("{interval}s"));
    let in_force = |interval: u32, how: &str| {
        let took = program.until_metric(INTERVAL, f64::from(interval));
        assert!(took < Duration::from_millis(2500), "{how}: {took:?}");
        // The first change of a burst is taken at once, so let this one be over.
        std::thread::sleep(Duration::from_millis(1100));
    };
    place.write(&config(6));
    in_force(6, "written in place");
    place.replace(&config(7));
    in_force(7, "renamed over");
    sure(Command::new("sed").arg("-i").arg("s/\"7s\"/\"8s\"/").arg(place.config()));
    in_force(8, "sed -i");
    // vim with a backup: the old file moves away, a new one takes its name.
    std::fs::rename(place.config(), place.at("config.toml~")).expect("renamed");
    place.write(&config(9));
    in_force(9, "backup and new file");
    std::fs::remove_file(place.config()).expect("removed");
    place.write(&config(10));
    in_force(10, "removed and written");
    sure(Command::new("cp").arg(place.config()).arg(place.at("copy")));
    std::fs::write(place.at("copy"), config(11)).expect("written");
    sure(Command::new("mv").arg(place.at("copy")).arg(place.config()));
    in_force(11, "moved over");
    let mut file = std::fs::OpenOptions::new().append(true).open(place.config()).expect("opened");
    file.write_all(b"[upstreams.a.retry]\ninitial = \"1s\"\n").expect("appended");
    drop(file);
    eventually("appended", || program.logged("retry.initial 500ms → 1s, live, 2 links kept") == 1);
    assert_eq!(program.metric(GOOD), Some(1.0));
}

#[test]
fn fault_51_configmap_swap_again_and_again() {
    let echo = Echo::start();
    let place = Place::new("");
    std::fs::remove_file(place.config()).expect("removed");
    let swap = |place: &Place, version: &str, config: &str| {
        std::fs::create_dir(place.at(version)).expect("a directory");
        std::fs::write(place.at(version).join("config.toml"), config).expect("written");
        symlink(version, place.at("..data_tmp")).expect("a link");
        std::fs::rename(place.at("..data_tmp"), place.at("..data")).expect("renamed");
    };
    swap(&place, "..v5", &with_interval(&echo, "5s"));
    symlink("..data/config.toml", place.config()).expect("a link");
    let program = Program::start_in(place);
    for version in 6..11 {
        swap(&program.place, &format!("..v{version}"), &with_interval(&echo, &format!("{version}s")));
        std::fs::remove_dir_all(program.place.at(&format!("..v{}", version - 1))).expect("removed");
        let took = program.until_metric(INTERVAL, f64::from(version));
        assert!(took < Duration::from_secs(3), "swap {version}: {took:?}");
    }
    eventually("all counted", || program.reloads("applied") == 5.0);
    assert_eq!(program.reloads("rejected"), 0.0);
}

#[test]
fn fault_51_configmap_swap_mid_read() {
    let echo = Echo::start();
    let place = Place::new("");
    std::fs::remove_file(place.config()).expect("removed");
    for version in ["5", "6"] {
        std::fs::create_dir(place.at(version)).expect("a directory");
        // Large, so that reading takes a while.
        let config = format!("{}{}", with_interval(&echo, &format!("{version}s")), "# filler\n".repeat(50_000));
        std::fs::write(place.at(version).join("config.toml"), config).expect("written");
    }
    symlink("5", place.at("..data")).expect("a link");
    symlink("..data/config.toml", place.config()).expect("a link");
    let program = Program::start_in(place);
    let began = Instant::now();
    let mut target = 5;
    while began.elapsed() < Duration::from_secs(4) || target != 6 {
        target = 11 - target;
        symlink(target.to_string(), program.place.at("next")).expect("a link");
        std::fs::rename(program.place.at("next"), program.place.at("..data")).expect("renamed");
        program.signal("HUP");
        let interval = program.interval("a");
        assert!(interval == Some(5.0) || interval == Some(6.0), "{interval:?}");
    }
    program.until_metric(INTERVAL, 6.0);
    assert_eq!(program.reloads("rejected"), 0.0);
}

#[test]
fn fault_51_a_link_into_another_directory_is_followed() {
    let echo = Echo::start();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let target = elsewhere.path().join("real.toml");
    std::fs::write(&target, with_interval(&echo, "5s")).expect("written");
    let place = Place::new("");
    std::fs::remove_file(place.config()).expect("removed");
    symlink(&target, place.config()).expect("a link");
    let program = Program::start_in(place);
    std::fs::write(&target, with_interval(&echo, "6s")).expect("written");
    let took = program.until_metric(INTERVAL, 6.0);
    assert!(took < Duration::from_millis(4000), "{took:?}");
    std::fs::write(elsewhere.path().join("new"), with_interval(&echo, "7s")).expect("written");
    std::fs::rename(elsewhere.path().join("new"), &target).expect("renamed");
    let took = program.until_metric(INTERVAL, 7.0);
    assert!(took < Duration::from_millis(4000), "{took:?}");
}

#[test]
fn fault_51_a_deleted_file_keeps_the_old_configuration() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    program.until_up("a");
    std::fs::remove_file(program.place.config()).expect("removed");
    program.until_metric(GOOD, 0.0);
    assert_eq!(program.interval("a"), Some(5.0));
    assert_eq!(exchange(program.listens("a"), b"still").expect("carried"), b"still");
    program.place.write(&with_interval(&echo, "5s"));
    program.until_metric(GOOD, 1.0);
    program.place.write(&with_interval(&echo, "6s"));
    program.until_metric(INTERVAL, 6.0);
}

#[test]
fn fault_51_a_replaced_directory_is_followed() {
    let echo = Echo::start();
    let place = Place::new("");
    std::fs::create_dir(place.at("etc")).expect("a directory");
    std::fs::write(place.at("etc/config.toml"), with_interval(&echo, "5s")).expect("written");
    let mut command = Command::new(harness::EVERLINK);
    command.arg("run").arg("--config").arg(place.at("etc/config.toml"));
    let program = Program::start_as(place, command);
    let at = |name: &str| program.place.at(name);
    std::fs::create_dir(at("new")).expect("a directory");
    std::fs::write(at("new/config.toml"), with_interval(&echo, "6s")).expect("written");
    std::fs::rename(at("etc"), at("old")).expect("renamed");
    std::fs::rename(at("new"), at("etc")).expect("renamed");
    program.until_metric(INTERVAL, 6.0);
    // Watched again, not only looked at: a look that finds another file waits for half a second before it is believed.
    let mut seconds = 6;
    eventually("watched", || {
        std::thread::sleep(Duration::from_millis(1500));
        seconds += 1;
        std::fs::write(at("etc/config.toml"), with_interval(&echo, &format!("{seconds}s"))).expect("written");
        program.until_metric(INTERVAL, f64::from(seconds)) < Duration::from_millis(400)
    });
}

#[test]
fn a_half_written_file_does_no_harm_and_is_taken_when_it_is_whole() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    program.until_up("a");
    let flow = Flow::start(program.listens("a"));
    let whole = with_interval(&echo, "6s");
    let (first, second) = whole.split_at(whole.len() - 40);
    let mut file = std::fs::File::create(program.place.config()).expect("truncated");
    file.write_all(first.as_bytes()).expect("written");
    flow.until_moved(200_000);
    assert_eq!(program.interval("a"), Some(5.0), "a half is not taken");
    file.write_all(second.as_bytes()).expect("written");
    drop(file);
    program.until_metric(INTERVAL, 6.0);
    program.until_metric(GOOD, 1.0);
    flow.until_moved(10_000);
    flow.end().expect("whole");
}

#[test]
fn fault_50_each_bad_edit_keeps_the_old_configuration_and_is_told_once() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    program.until_up("a");
    let flow = Flow::start(program.listens("a"));
    let good = with_interval(&echo, "5s");
    let bad = [
        (String::new(), "the file is empty"),
        ("# gone\n".to_owned(), "no upstream"),
        (format!("{good}heartbeet = 1\n"), "config.toml:12:1"),
        (good.replace("\"5s\"", "5"), "config.toml:7:12"),
        (good.replace("\"5s\"", "\"1ms\""), "config.toml:7:12"),
        (good.replace("endpoints", "endpoint"), "config.toml:4:1"),
        (good.replace("[upstreams.a.heartbeat]", "[upstreams.a.heartbeat"), "config.toml:6:"),
        (good.replace("127.0.0.1:0\"\nendpoints", "192.0.2.1:1\"\nendpoints"), "config.toml:3:10"),
        (format!("{good}send = \"twice\"\n"), "config.toml:12:1"),
        (format!("{good}\n[upstreams.a]\nlisten = \"127.0.0.1:0\"\n"), "config.toml:13:"),
        (good.replace("pong", "${EVERLINK_NOT_SET}"), "EVERLINK_NOT_SET"),
        (top(), "no upstream"),
        ("\u{0}".to_owned(), "config.toml:1:1"),
    ];
    for (n, (text, told)) in bad.iter().enumerate() {
        let before = program.log().len();
        program.place.replace(text);
        eventually(&format!("{told} rejected"), || program.reloads("rejected") == (n + 1) as f64);
        assert_eq!(program.metric(GOOD), Some(0.0));
        let mut lines = Vec::new();
        eventually("told", || {
            lines = program.log().split_off(before);
            lines.retain(|line| line.contains("rejected"));
            !lines.is_empty()
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(told) && lines[0].contains("\"ERROR\""), "{told}: {lines:?}");
        assert_eq!(program.status()["config"]["last_reload"]["outcome"], "rejected");
    }
    assert_eq!(program.interval("a"), Some(5.0));
    program.place.replace(&good);
    program.until_metric(GOOD, 1.0);
    assert_eq!((program.reloads("unchanged"), program.reloads("applied")), (1.0, 0.0));
    flow.until_moved(10_000);
    flow.end().expect("whole");
}

#[test]
fn a_rejected_content_saved_again_is_not_told_again_until_somebody_asks() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    program.place.replace("wrong");
    program.until_metric(GOOD, 0.0);
    program.place.replace("wrong");
    // The next change is told after it, so by then it has been looked at.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((program.logged("rejected"), program.reloads("rejected")), (1, 1.0));
    program.signal("HUP");
    eventually("told again", || program.logged("rejected") == 2);
}

#[test]
fn fault_52_a_storm_of_saves_is_taken_at_once_and_then_once_a_second() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    program.until_up("a");
    let began = Instant::now();
    let mut first = None;
    let mut last = 0_u64;
    while began.elapsed() < Duration::from_secs(4) {
        last += 1;
        program.place.replace(&with_interval(&echo, &format!("{}ms", 1000 + last)));
        if first.is_none() && program.logged("configuration applied") > 0 {
            first = Some(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // As the program adds it up.
    let last = Duration::from_millis(1000 + last).as_secs_f64();
    program.until_metric(INTERVAL, last);
    let took = began.elapsed().as_secs_f64();
    let (applied, rejected) = (program.reloads("applied"), program.reloads("rejected"));
    assert!(first.is_some(), "not while it lasted");
    assert!(applied >= 3.0 && applied <= took + 1.0 && rejected == 0.0, "{applied} in {took} s");
}

#[test]
fn fault_52_a_storm_of_hangups_is_heard_once_a_second() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    program.until_up("a");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        program.signal("HUP");
        std::thread::sleep(Duration::from_millis(5));
    }
    let reloads = program.reloads("unchanged");
    assert!((2.0..=5.0).contains(&reloads), "{reloads}");
}

#[test]
fn nothing_is_reloaded_when_the_file_is_only_read() {
    let echo = Echo::start();
    let program = Program::start(&with_interval(&echo, "5s"));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        std::fs::read(program.place.config()).expect("read");
        std::fs::write(program.place.at("other"), "x").expect("written");
        std::thread::sleep(Duration::from_millis(5));
    }
    for outcome in ["applied", "unchanged", "rejected"] {
        assert_eq!(program.reloads(outcome), 0.0, "{outcome}");
    }
}

#[test]
fn a_hangup_reads_the_file_and_cuts_waits_short() {
    let port = free_port();
    let endpoint = ([127, 0, 0, 1], port).into();
    let slow = "retry = { initial = \"1h\", max = \"1h\", jitter = \"off\" }";
    let program = Program::start(&one(endpoint, slow));
    eventually("waits", || program.sum("everlink_links", "state=\"waiting\"") == 2.0);
    let _echo = Echo::start_at(endpoint);
    program.signal("HUP");
    program.until_links("a", 2.0);
    assert_eq!(program.reloads("unchanged"), 1.0);
}

#[test]
fn an_edit_of_the_retry_cuts_waits_short() {
    let port = free_port();
    let endpoint = ([127, 0, 0, 1], port).into();
    let program = Program::start(&one(endpoint, "retry = { initial = \"1h\", max = \"1h\", jitter = \"off\" }"));
    eventually("waits", || program.sum("everlink_links", "state=\"waiting\"") == 2.0);
    let _echo = Echo::start_at(endpoint);
    program.place.replace(&one(endpoint, "retry = { initial = \"30m\", max = \"1h\", jitter = \"off\" }"));
    program.until_links("a", 2.0);
}

#[test]
fn the_admin_socket_answers_applied_unchanged_and_rejected() {
    let echo = Echo::start();
    let place = Place::new("");
    let admin = format!("admin.socket = \"{}\"\n", place.at("admin.sock").display());
    let config = |interval: &str| format!("{admin}{}", with_interval(&echo, interval));
    place.write(&config("5s"));
    let program = Program::start_in(place);
    let asked = program.ask(&["reload"]);
    assert!(asked.status.success() && harness::text(&asked).contains("unchanged"), "{asked:?}");
    // The watch may be first; whoever is, one of them says what changed.
    let mut seconds = 5;
    eventually("the answer says it", || {
        let edit = format!("a: heartbeat.interval {seconds}s → {}s, live, 2 links kept", seconds + 1);
        seconds += 1;
        program.place.replace(&config(&format!("{seconds}s")));
        let asked = program.ask(&["reload"]);
        assert!(asked.status.success(), "{asked:?}");
        assert_eq!(program.interval("a"), Some(f64::from(seconds)));
        harness::text(&asked).contains(&edit)
    });
    program.place.replace(&config("0"));
    let asked = program.ask(&["reload"]);
    let told = harness::text(&asked);
    assert!(asked.status.code() == Some(1) && told.contains("rejected") && told.contains("config.toml:"), "{told}");
    assert_eq!(program.interval("a"), Some(f64::from(seconds)));
}

#[test]
fn fault_54_retuning_leaves_every_link_and_every_connection_in_place() {
    let echo = Echo::start();
    let config = |interval: &str, more: &str| {
        format!("{}{}\n{more}", top(), upstream("a", "127.0.0.1:0", echo.address, interval, ""))
    };
    let program = Program::start(&config("5s", ""));
    program.until_links("a", 2.0);
    let address = program.listens("a");
    let flows: Vec<_> = (0..4).map(|_| Flow::start(address)).collect();
    flows.iter().for_each(|flow| flow.until_moved(1));
    program.until_links("a", 2.0);
    let dials = program.sum("everlink_link_dials_total", "");
    let links = |program: &Program| -> Vec<_> {
        let upstream = program.upstream("a").expect("there");
        upstream["links"].as_array().expect("links").iter().map(|link| link["id"].clone()).collect()
    };
    let before = links(&program);
    for (interval, more, told) in [
        ("1s", "", "heartbeat.interval 5s → 1s"),
        ("1s", "in_use = \"off\"\n", ""),
        ("2s", "[upstreams.a.retry]\ninitial = \"2s\"\nattempts = 7\n", "retry.attempts unlimited → 7"),
        ("2s", "[upstreams.a.limits]\nconnections = 100\nwait = \"1s\"\n", "limits.connections 1024 → 100"),
        ("2s", "[log]\nlevel = \"debug\"\n", "log.level info → debug"),
        ("3s", "[drain]\ntimeout = \"1s\"\nquiet = \"1s\"\n", "drain.timeout 8s → 1s"),
    ] {
        let reloads = program.reloads("applied") + program.reloads("unchanged");
        program.place.replace(&config(interval, more));
        eventually("taken", || program.reloads("applied") + program.reloads("unchanged") > reloads);
        eventually(told, || program.logged(told) > 0);
        let moved: Vec<_> = flows.iter().map(Flow::moved).collect();
        eventually("bytes flow", || flows.iter().zip(&moved).all(|(flow, moved)| flow.moved() > *moved + 20_000));
    }
    program.place.replace(&config("3s", "").replace("misses = 3", "misses = 9"));
    program.until_metric("everlink_detection_budget_seconds{upstream=\"a\"}", 12.0);
    assert_eq!(program.sum("everlink_link_dials_total", ""), dials, "a link was redialled");
    assert_eq!(links(&program), before);
    assert_eq!(program.sum("everlink_link_losses_total", ""), 0.0);
    for flow in flows {
        flow.end().expect("whole");
    }
}

#[test]
fn the_pool_grows_and_shrinks_by_an_edit() {
    let echo = Echo::start();
    let config = |size: u32| one(echo.address, &format!("pool.size = {size}"));
    let program = Program::start(&config(1));
    program.until_links("a", 1.0);
    let flow = Flow::start(program.listens("a"));
    program.until_links("a", 1.0);
    program.place.replace(&config(5));
    program.until_links("a", 5.0);
    program.place.replace(&config(2));
    program.until_links("a", 2.0);
    flow.until_moved(10_000);
    flow.end().expect("whole");
    assert_eq!(program.sum("everlink_link_losses_total", "reason=\"reload\""), 3.0);
    assert_eq!(program.sum("everlink_link_reconnects_total", ""), 0.0);
}

#[test]
fn a_thousand_upstreams_are_retuned_without_a_redial() {
    let echo = Echo::start();
    let config = |interval: &str| -> String {
        let all = (0..1000)
            .map(|n| format!("[upstreams.u{n}]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{}\"]\n", echo.address));
        let defaults = format!(
            "[defaults]\npool.size = 1\nheartbeat = {{ interval = \"{interval}\", timeout = \"10s\", send = \"ping\", expect = \"pong\" }}\n"
        );
        format!("{}{defaults}{}", top(), all.collect::<String>())
    };
    let program = Program::start(&config("30s"));
    let links = |program: &Program| program.sum("everlink_links", "state=\"up\"");
    eventually("all up", || links(&program) == 1000.0);
    let addresses: Vec<_> = (0..20).map(|n| program.listens(&format!("u{}", n * 50))).collect();
    let flows: Vec<_> = addresses.into_iter().map(Flow::start).collect();
    flows.iter().for_each(|flow| flow.until_moved(1));
    eventually("all up again", || links(&program) == 1000.0);
    let dials = program.sum("everlink_link_dials_total", "");
    assert_eq!(dials, 1020.0);
    let began = Instant::now();
    program.place.replace(&config("7s"));
    eventually("all retuned", || program.sum("everlink_heartbeat_interval_seconds", "") == 7000.0);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "in force after {took:?}");
    let moved: Vec<_> = flows.iter().map(Flow::moved).collect();
    eventually("bytes flow", || flows.iter().zip(&moved).all(|(flow, moved)| flow.moved() > *moved + 20_000));
    assert_eq!(program.sum("everlink_link_dials_total", ""), dials, "a link was redialled");
    assert_eq!(program.sum("everlink_link_losses_total", ""), 0.0, "a link was lost");
    for flow in flows {
        flow.end().expect("whole");
    }
}
