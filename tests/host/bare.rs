//! As little of a system as a container may have: nothing can be written, and hardly anything can be read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::program::{Program, directory, free_port, program, succeeded, wait_until, whole};
use crate::common::server::{Server, echo};
use crate::tunnel::relay::{How, Relay};
use crate::tunnel::road::{QUICK, descriptors, listener};
use crate::tunnel::traffic::{Pace, Talk};

/// The directories above are made in the namespace's own mounts; `$0` is the root, `$1` the user.
const ENTER: &str = r#"
set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -o remount,bind,ro "$0"
exec env -i "$(command -v chroot)" "$0" /setpriv --reuid "$1" --regid "$1" --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all --pdeathsig KILL /everlink run --config /everlink.toml
"#;

/// Copies a program and the libraries it needs to where they are looked for.
fn copy(program: &Path, root: &Path, name: &str) {
    std::fs::copy(program, root.join(name)).expect("copied");
    let told = succeeded(Command::new("ldd").arg(program));
    for path in told.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("made");
        std::fs::copy(path, to).expect("copied");
    }
}

/// A root with nothing in it but the program, its configuration and its token.
fn root(config: &str, user: u32) -> TempDir {
    let root = directory();
    std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).expect("set");
    copy(Path::new(env!("CARGO_BIN_EXE_everlink")), root.path(), "everlink");
    copy(&program("setpriv"), root.path(), "setpriv");
    std::fs::create_dir(root.path().join("proc")).expect("made");
    std::fs::write(root.path().join("token"), "open sesame, and be quick about it\n").expect("written");
    let token = root.path().join("token");
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o400)).expect("set");
    std::os::unix::fs::chown(&token, Some(user), Some(user)).expect("root may");
    std::fs::write(root.path().join("everlink.toml"), whole(config)).expect("written");
    root
}

fn start(root: TempDir, user: u32) -> Program {
    let mut command = Command::new(program("setpriv"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(program("unshare")).args(["--mount", "--", "sh", "-c", ENTER]);
    command.arg(root.path()).arg(user.to_string());
    Program::start_as(root, command)
}

/// That it is as bare as it should be, seen from outside.
fn is_bare(program: &Program, user: u32) {
    let proc = PathBuf::from(format!("/proc/{}", program.id()));
    let read = |name: &str| std::fs::read_to_string(proc.join(name)).expect("a living process");
    let status = read("status");
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert_eq!(line("Uid:"), format!("Uid:\t{user}\t{user}\t{user}\t{user}"));
    assert!(line("CapBnd:").ends_with(&"0".repeat(16)), "{status}");
    assert_eq!(read("environ"), "", "neither HOME nor anything else");
    let mounts = read("mountinfo");
    let of_root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    assert!(of_root.split(' ').nth(5).is_some_and(|how| how.split(',').any(|word| word == "ro")), "{of_root}");
    for absent in ["tmp", "etc", "home", "var", "run", "dev", "usr/share"] {
        assert!(!proc.join("root").join(absent).exists(), "{absent}");
    }
}

#[test]
fn fault_58_with_nothing_to_write_and_nobody_to_be_both_ends_run() {
    let user = fastrand::u32(100_000..2_000_000_000);
    let (service, port) = (Server::start(echo), free_port());
    let far = format!(
        "[gateway]\nlisten = \"127.0.0.1:{port}\"\nname = \"gw\"\ntoken_file = \"/token\"\n[gateway.services]\necho = \"{}\"\n",
        service.address
    );
    let gateway = start(root(&far, user), user);
    let relay = Relay::start(&[([127, 0, 0, 1], port).into()]);
    let near = format!(
        "[upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"{}\"]\ntoken_file = \"/token\"\n{QUICK}\
         [[upstreams.site.forwards]]\nlisten = \"127.0.0.1:0\"\nservice = \"echo\"\n\
         [upstreams.nowhere]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"nowhere.invalid:7\"]\n{QUICK}",
        relay.address
    );
    let sidecar = start(root(&near, user), user);
    sidecar.until_up("site", 1);
    is_bare(&sidecar, user);
    is_bare(&gateway, user);
    // There is no resolv.conf, so there is nobody to ask; that is told, and harms nobody else.
    wait_until("dials of a name fail", || {
        ["resolve", "timeout"].iter().any(|outcome| {
            sidecar.metric(&format!("everlink_link_dials_total{{outcome=\"{outcome}\",upstream=\"nowhere\"}}")) > 0.0
        })
    });
    let of_both = || [descriptors(sidecar.id()), descriptors(gateway.id())];
    let before = of_both();
    let talk = Talk::start(listener(&sidecar, "echo"), Pace::BULK);
    talk.until_moved(1 << 20);
    assert_eq!(relay.cut(How::Reset), 1);
    talk.until_moved(1 << 20);
    assert!(talk.finish() > 2 << 20);

    // Its file cannot be written from within. From without it can, and is followed.
    let edited = near.replace("misses = 3", "misses = 4");
    std::fs::write(sidecar.directory().join("everlink.toml"), whole(&edited)).expect("written");
    wait_until("the edit is in force", || sidecar.status().config.generation == 2);
    wait_until("no client is left", || sidecar.metric("everlink_connections{upstream=\"site\"}") == 0.0);
    // A name may be asked for at any moment, so its socket may be open.
    wait_until("descriptors", || of_both().iter().zip(before).all(|(now, before)| *now <= before + 1));
    sidecar.stop();
    gateway.stop();
}
