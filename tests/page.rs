//! The status page in a real Chromium: what `tests/page/page.py` holds, one part a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const EVERLINK: &str = env!("CARGO_BIN_EXE_everlink");

/// One browser at a time: two would only wait for each other's processor.
static BROWSER: Mutex<()> = Mutex::new(());

/// The Python that `tests/run` installs, beside what is built.
fn python() -> PathBuf {
    let target = Path::new(EVERLINK).ancestors().nth(2).expect("a target directory");
    let python = target.join("python/bin/python");
    assert!(python.exists(), "{} is missing: run tests/run --install", python.display());
    assert!(Path::new("/usr/bin/chromium").exists(), "chromium is missing: run tests/run --install");
    python
}

fn page(part: &str) {
    let _alone = BROWSER.lock().unwrap_or_else(PoisonError::into_inner);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/page.py");
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "timeout", "120"])
        .arg(python())
        .arg(script)
        .arg(part)
        .env("EVERLINK", EVERLINK)
        .stdin(Stdio::null())
        .output()
        .expect("setpriv of util-linux");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{part}: {}\n{out}\n{err}", output.status);
    println!("{out}");
}

/// State, countdown, timeline, misses; recovery with the streams that were saved; and a page opened only then.
#[test]
fn the_page_shows_an_outage_while_it_lasts_and_when_it_is_over() {
    page("outage");
}

#[test]
fn the_page_says_when_nobody_answers_and_goes_on_when_somebody_does() {
    page("silence");
}

/// Light and dark, 1280 and 360 pixels: contrast, width, names, headings, focus; and a rejected edit with its reasons.
#[test]
fn the_page_is_fit_for_phones_keyboards_and_screen_readers() {
    page("fit");
}

/// Of servers, of files and of every text of `/status`, under the longest name there may be; and the policy stands.
#[test]
fn strangers_words_stay_words() {
    page("words");
}

#[test]
fn the_page_asks_nothing_while_nobody_looks() {
    page("hidden");
}

/// Only what is in sight is drawn and its history asked for; at most 96 MiB with a reader.
#[test]
fn a_thousand_upstreams_are_drawn_as_quickly_as_a_few() {
    page("thousand");
}
