//! What is typed while the demo runs.

#![forbid(unsafe_code)]

use std::io;

/// Lines typed on a terminal; never ready without one.
pub struct Keys(Option<tokio::sync::mpsc::Receiver<String>>);

impl Keys {
    /// Reads standard input on a thread of its own if it is a terminal.
    pub fn from_terminal() -> Self {
        use std::io::{BufRead, IsTerminal};
        if !io::stdin().is_terminal() {
            return Self(None);
        }
        let (typed, keys) = tokio::sync::mpsc::channel(1);
        let read = move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if typed.blocking_send(line).is_err() {
                    return;
                }
            }
        };
        match std::thread::Builder::new().name("keys".into()).spawn(read) {
            Ok(_) => Self(Some(keys)),
            Err(_) => Self(None),
        }
    }

    /// Whether there is a terminal.
    pub fn are_heard(&self) -> bool {
        self.0.is_some()
    }

    /// The next line without its blanks; it never comes if there is none.
    pub async fn next(&mut self) -> String {
        if let Some(keys) = &mut self.0 {
            if let Some(line) = keys.recv().await {
                return line.trim().to_owned();
            }
            self.0 = None;
        }
        std::future::pending().await
    }
}
