//! Connections in memory: they delay, slice, lose all bytes from some place on, fall silent, and speak late.

use std::collections::VecDeque;

use fastrand::Rng;

/// Virtual time in microseconds.
pub type Micros = u64;
pub const MS: Micros = 1000;
pub const SECOND: Micros = 1_000_000;

/// 0: the dialer, 1: the gateway.
pub type Side = usize;

/// One direction.
struct Pipe {
    queue: VecDeque<(Micros, Vec<u8>)>,
    /// Bytes of the queue's front already read.
    front: usize,
    waiting: usize,
    capacity: usize,
    delay: (Micros, Micros),
    newest: Micros,
    written: u64,
    lost_from: Option<u64>,
    lost: usize,
    /// The writer has closed: the end is read from then on.
    end: Option<Micros>,
}

/// What a side reads.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

/// How a connection behaves.
#[derive(Debug, Clone)]
pub struct Habits {
    pub delay: (Micros, Micros),
    pub capacity: usize,
    /// The most bytes a read returns.
    pub slice: usize,
    /// Until a side has read so many bytes, slices are of 1 – 3 bytes.
    pub crumbs: u64,
    /// Bytes of each direction after which all are lost.
    pub lost_from: [Option<u64>; 2],
    /// Whether each side hears of a loss (in time); else it must find out.
    pub heard: [bool; 2],
}

pub struct Connection {
    pipes: [Pipe; 2],
    habits: Habits,
    read: [u64; 2],
    reset: [Option<Micros>; 2],
    pub closed: [bool; 2],
}

impl Connection {
    pub fn new(habits: Habits) -> Self {
        let pipe = |side: Side| Pipe {
            queue: VecDeque::new(),
            front: 0,
            waiting: 0,
            capacity: habits.capacity,
            delay: habits.delay,
            newest: 0,
            written: 0,
            lost_from: habits.lost_from[side],
            lost: 0,
            end: None,
        };
        Self { pipes: [pipe(0), pipe(1)], habits, read: [0; 2], reset: [None; 2], closed: [false; 2] }
    }

    /// Writes what is taken at once: how many bytes. If the first byte ever is lost with it: after how many of these.
    pub fn write(&mut self, side: Side, now: Micros, bytes: &[u8], rng: &mut Rng) -> (usize, Option<usize>) {
        let reader_gone = self.closed[1 - side];
        let pipe = &mut self.pipes[side];
        let count = bytes.len().min(pipe.capacity.saturating_sub(pipe.waiting + pipe.lost));
        let keep = match pipe.lost_from {
            Some(from) => count.min(from.saturating_sub(pipe.written) as usize),
            None => count,
        };
        let cut = (keep < count && pipe.lost == 0).then_some(keep);
        if cut.is_some() {
            for side in [0, 1] {
                if self.habits.heard[side] {
                    let at = now + rng.u64(0..300 * MS);
                    self.reset[side] = Some(self.reset[side].map_or(at, |known| known.min(at)));
                }
            }
        }
        pipe.written += count as u64;
        pipe.lost += count - keep;
        if keep > 0 && !reader_gone {
            let at = (now + rng.u64(pipe.delay.0..=pipe.delay.1)).max(pipe.newest);
            pipe.newest = at;
            pipe.waiting += keep;
            pipe.queue.push_back((at, bytes[..keep].to_vec()));
        }
        (count, cut)
    }

    pub fn read(&mut self, side: Side, now: Micros, rng: &mut Rng) -> Read {
        if self.reset[side].is_some_and(|at| at <= now) {
            return Read::End;
        }
        let crumbs = self.read[side] < self.habits.crumbs;
        let pipe = &mut self.pipes[1 - side];
        let most = if crumbs { rng.usize(1..=3) } else { rng.usize(1..=self.habits.slice) };
        match pipe.queue.front_mut() {
            Some((at, bytes)) if *at <= now => {
                let end = bytes.len().min(pipe.front + most);
                let taken = bytes[pipe.front..end].to_vec();
                pipe.front = end;
                if end == bytes.len() {
                    pipe.queue.pop_front();
                    pipe.front = 0;
                }
                pipe.waiting -= taken.len();
                self.read[side] += taken.len() as u64;
                Read::Bytes(taken)
            }
            Some(_) => Read::Nothing,
            None if pipe.end.is_some_and(|at| at <= now) && pipe.lost == 0 => Read::End,
            None => Read::Nothing,
        }
    }

    pub fn is_readable(&self, side: Side, now: Micros) -> bool {
        self.pipes[1 - side].queue.front().is_some_and(|(at, _)| *at <= now)
    }

    /// This side is through with it. What it wrote may still arrive, however late.
    pub fn close(&mut self, side: Side, now: Micros, rng: &mut Rng) {
        if std::mem::replace(&mut self.closed[side], true) {
            return;
        }
        self.pipes[side].end = Some((now + self.habits.delay.0).max(self.pipes[side].newest));
        // What it will not read any more: half of the time the other side is told at once, and loses what it holds.
        let pipe = &mut self.pipes[1 - side];
        pipe.queue.clear();
        (pipe.front, pipe.waiting) = (0, 0);
        if self.habits.heard[1 - side] && self.pipes[side].lost == 0 && rng.bool() {
            let at = now + rng.u64(0..50 * MS);
            self.reset[1 - side] = Some(self.reset[1 - side].map_or(at, |known| known.min(at)));
        }
    }

    /// No faults to come.
    pub fn heal(&mut self) {
        for pipe in &mut self.pipes {
            if pipe.lost == 0 {
                pipe.lost_from = None;
            }
            pipe.delay = (MS, 5 * MS);
        }
    }

    /// When something will change without anybody's doing.
    pub fn next_change(&self, now: Micros) -> Option<Micros> {
        let pipes = [0, 1].into_iter().filter(|side| !self.closed[1 - side]).flat_map(|side| {
            let pipe = &self.pipes[side];
            [pipe.queue.front().map(|(at, _)| *at), pipe.end, self.reset[1 - side]]
        });
        pipes.flatten().filter(|at| *at > now).min()
    }
}
