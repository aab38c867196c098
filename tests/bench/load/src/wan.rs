//! A wire with delay, rate, loss and a switch, between two interfaces.
//!
//! It runs in a namespace of its own that holds the outer ends of two veth pairs. Whole frames are read from one and
//! later written to the other, so handshakes, loss and silence are the kernel's own. Lines on stdin: `cut`, `heal`,
//! `loss SHARE`.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::args::{Args, die};
use crate::measured::now;
use crate::packet;

/// The longest frame, with 10 bytes of the kernel's own notes before it.
const FRAME: usize = 70_000;
const NOTES: usize = 10;
/// Frames taken from one side before the other has its turn.
const BURST: usize = 256;
const SPARE: usize = 4096;

struct Direction {
    from: usize,
    queue: VecDeque<(u64, Vec<u8>)>,
    free_at: u64,
}

struct Wire {
    ends: [OwnedFd; 2],
    delay_ns: u64,
    /// Mbit/s; 0 for no limit.
    rate: f64,
    /// What would wait longer than this is dropped.
    queue_ns: u64,
    loss: f64,
    cut: bool,
    spare: Vec<Vec<u8>>,
}

impl Wire {
    fn take(&mut self, direction: &mut Direction) {
        for _ in 0..BURST {
            let mut frame = self.spare.pop().unwrap_or_default();
            frame.resize(FRAME, 0);
            let Ok((count, _)) = recv(&self.ends[direction.from], &mut frame[..], RecvFlags::empty()) else {
                return self.spare.push(frame);
            };
            frame.truncate(count);
            let arrived = now();
            let start = direction.free_at.max(arrived);
            let late = self.rate > 0.0 && start - arrived > self.queue_ns;
            if self.cut || late || self.loss > 0.0 && chance() < self.loss {
                self.spare.push(frame);
                continue;
            }
            let bits = (count - NOTES.min(count)).max(64) as f64 * 8.0;
            direction.free_at = if self.rate > 0.0 { start + (bits * 1e3 / self.rate) as u64 } else { start };
            direction.queue.push_back((direction.free_at + self.delay_ns, frame));
        }
    }

    fn give(&mut self, direction: &mut Direction) {
        while direction.queue.front().is_some_and(|(due, _)| *due <= now()) {
            let Some((_, frame)) = direction.queue.pop_front() else { return };
            send(&self.ends[1 - direction.from], &frame, SendFlags::empty()).ok();
            if self.spare.len() < SPARE {
                self.spare.push(frame);
            }
        }
    }

    fn obey(&mut self, command: &str, directions: &mut [Direction; 2]) {
        match command.split_whitespace().collect::<Vec<_>>()[..] {
            ["cut"] => {
                self.cut = true;
                directions.iter_mut().for_each(|direction| direction.queue.clear());
            }
            ["heal"] => self.cut = false,
            ["loss", share] => self.loss = share.parse().unwrap_or(0.0),
            _ => eprintln!("load: unknown command {command}"),
        }
    }
}

/// Between 0 and 1; the same in every run.
fn chance() -> f64 {
    use std::cell::Cell;
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0x2545_F491_4F6C_DD1D) });
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        (x >> 11) as f64 / (1_u64 << 53) as f64
    })
}

pub fn run(args: &Args) {
    let open = |key| {
        let name = args.text(key, "");
        packet::open(&name).unwrap_or_else(|error| die(&format!("packet socket on {name}: {error}")))
    };
    let mut wire = Wire {
        ends: [open("a"), open("b")],
        delay_ns: (args.number("delay-ms", 25.0) * 1e6) as u64,
        rate: args.number("rate-mbit", 1000.0),
        queue_ns: (args.number("queue-ms", 50.0) * 1e6) as u64,
        loss: args.number("loss", 0.0),
        cut: false,
        spare: Vec::new(),
    };
    let mut directions = [0, 1].map(|from| Direction { from, queue: VecDeque::new(), free_at: 0 });
    println!("READY");
    let mut line = String::new();
    loop {
        let due = directions.iter().filter_map(|direction| direction.queue.front()).map(|(due, _)| *due).min();
        let wait = due.map_or(200_000_000, |due| due.saturating_sub(now()).min(200_000_000));
        let stdin = std::io::stdin();
        let mut ready = [
            PollFd::new(&wire.ends[0], PollFlags::IN),
            PollFd::new(&wire.ends[1], PollFlags::IN),
            PollFd::new(&stdin, PollFlags::IN),
        ];
        poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: wait as i64 })).ok();
        let [a, b, commands] = ready.map(|entry| !entry.revents().is_empty());
        if commands {
            let mut bytes = [0; 256];
            match stdin.lock().read(&mut bytes) {
                Ok(count @ 1..) => line += &String::from_utf8_lossy(&bytes[..count]),
                _ => return, // whoever led us is gone
            }
            while let Some((command, rest)) = line.split_once('\n') {
                wire.obey(command, &mut directions);
                line = rest.to_owned();
            }
        }
        for (direction, ready) in directions.iter_mut().zip([a, b]) {
            if ready {
                wire.take(direction);
            }
            wire.give(direction);
        }
    }
}
