//! The files of `deploy/systemd`: systemd's own tools find no fault with them, and they fit each other.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{EVERLINK, text};

const PLACES: [&str; 2] = ["everlink", "everlink-gateway"];
/// The most exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE: u32 = 11;

pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

pub fn read(name: &str) -> String {
    std::fs::read_to_string(shipped().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The values of a setting.
fn values<'t>(unit: &'t str, setting: &str) -> Vec<&'t str> {
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
}

/// The units as they would be installed, with the program that was built.
fn installed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    copy(&shipped(), directory.path());
    directory
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy(&entry.path(), &target);
        } else {
            let unit = std::fs::read_to_string(entry.path()).expect("text");
            std::fs::write(target, unit.replace("/usr/local/bin/everlink", EVERLINK)).expect("written");
        }
    }
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let directory = installed();
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).current_dir(directory.path());
        // Ours first, and then its own, which ours refer to.
        command.env("SYSTEMD_UNIT_PATH", format!("{}:", directory.path().display()));
        command.output().expect("systemd-analyze")
    };
    let units = ["everlink.service", "everlink-gateway.service", "everlink.socket"].map(|unit| format!("./{unit}"));
    let mut verify = vec!["verify", "--man=no", "--recursive-errors=yes"];
    verify.extend(units.iter().map(String::as_str));
    let verified = analyze(&verify);
    assert!(verified.status.success() && text(&verified).is_empty(), "{}", text(&verified));
    // It does find faults.
    std::fs::write(
        directory.path().join("bad.service"),
        "[Service]\nExecStart=/no/such/program\nProtectSytem=strict\n",
    )
    .expect("written");
    let bad = analyze(&["verify", "--man=no", "./bad.service"]);
    assert!(text(&bad).contains("ProtectSytem"), "{}", text(&bad));

    for unit in &units[..2] {
        let threshold = format!("--threshold={EXPOSURE}");
        let judged = analyze(&["security", "--offline=true", "--no-pager", &threshold, unit]);
        assert!(judged.status.success(), "{}", text(&judged));
        let text = text(&judged);
        let level = text.lines().find_map(|line| line.split("Overall exposure level").nth(1)).expect("a level");
        let level = level.split_whitespace().find(|word| word.parse::<f64>().is_ok()).expect("a number");
        assert!(
            read("README.md").contains(&format!("exposure level is {level}")),
            "the README says another than {level}"
        );
    }
    let strict = analyze(&["security", "--offline=true", "--no-pager", "--threshold=1", &units[0]]);
    assert!(!strict.status.success(), "the threshold counts");
}

#[test]
fn units_configurations_and_sockets_fit_each_other() {
    for name in PLACES {
        let file = if name == "everlink" { "config.toml" } else { "gateway.toml" };
        let unit = read(&format!("{name}.service"));
        let credentials = read(&format!("{name}.service.d/credentials.conf"));
        // The configuration can be used as it is, with the credentials that the drop-in loads.
        let directory = tempfile::tempdir().expect("a directory");
        let made = rcgen::generate_simple_self_signed(vec!["gateway.example.net".to_owned()]).expect("made");
        let place = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o440)).expect("set");
        };
        for loaded in values(&credentials, "LoadCredential") {
            match loaded.split_once(':').expect("a name and a path").0 {
                "token" => place("token", "sixteen bytes, and some more\n"),
                "server.pem" => place("server.pem", &made.cert.pem()),
                "server.key" => place("server.key", &made.signing_key.serialize_pem()),
                other => panic!("{other}"),
            }
        }
        let mut check = Command::new(EVERLINK);
        check.arg("check").arg(shipped().join(file)).env("CREDENTIALS_DIRECTORY", directory.path());
        let checked = check.output().expect("run");
        assert!(checked.status.success() && !text(&checked).contains("warning"), "{}", text(&checked));

        let loaded = everlink::config::load(&shipped().join(file), &|name| {
            (name == "CREDENTIALS_DIRECTORY").then(|| directory.path().display().to_string())
        })
        .unwrap_or_else(|report| panic!("{report}"));
        let config = loaded.config;
        assert_eq!(values(&unit, "ExecStart"), [format!("/usr/local/bin/everlink run --config /etc/everlink/{file}")]);
        let admin = config.admin.as_ref().expect("named").socket.display().to_string();
        assert_eq!(values(&unit, "ExecReload"), [format!("/usr/local/bin/everlink reload --socket {admin}")]);
        let runtime = format!("/run/{}/admin.sock", values(&unit, "RuntimeDirectory")[0]);
        assert_eq!(admin, runtime);
        let stop: u64 = values(&unit, "TimeoutStopSec")[0].trim_end_matches('s').parse().expect("seconds");
        assert!(stop >= config.drain.timeout.as_secs() + 10);
        assert_eq!(values(&unit, "RestartPreventExitStatus"), [everlink::app::EXIT_CONFIG.to_string()]);
        if name == "everlink" {
            let listeners: Vec<_> = config
                .upstreams
                .values()
                .flat_map(|upstream| everlink::listener::Wanted::of(upstream))
                .map(|wanted| wanted.address.to_string().trim_start_matches("unix:").to_owned())
                .collect();
            assert_eq!(values(&read("everlink.socket"), "ListenStream"), listeners);
        }
    }
    // The two differ where they must and nowhere else.
    let [one, other] = PLACES.map(|name| read(&format!("{name}.service")));
    let hardening = |unit: &str| unit.split_once("LimitNOFILE").expect("there").1.to_owned();
    assert_eq!(hardening(&one), hardening(&other));
}
