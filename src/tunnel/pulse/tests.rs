use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn beats() -> Beats {
    Beats { interval: 5 * SECOND, timeout: 3 * SECOND, misses: 3 }
}

/// A connection just made, at a moment that leaves room before it.
fn pulse() -> (Pulse, Instant) {
    heartbeat::origin();
    let start = Instant::now() + SECOND;
    (Pulse::new(beats(), start, 1), start)
}

fn unknown() -> Option<Delivery> {
    None
}

/// Ticks at each deadline, sends what is asked for, until death; every verdict with its time since `start`.
fn until_dead(pulse: &mut Pulse, start: Instant) -> Vec<(Duration, Verdict)> {
    let mut seen = Vec::new();
    loop {
        let now = pulse.next_deadline().max(start);
        let verdict = pulse.tick(now, unknown);
        assert_ne!(verdict, Verdict::Quiet, "a deadline with nothing due");
        seen.push((now - start, verdict));
        if let Verdict::Dead(_) = verdict {
            return seen;
        }
        pulse.beat_sent(now);
        assert!(seen.len() < 1000, "never dies");
    }
}

fn verdicts(seen: &[(Duration, Verdict)]) -> Vec<Verdict> {
    seen.iter().map(|(_, verdict)| *verdict).collect()
}

/// Ticks at the deadline, which has to give `expected`, and sends the beat if that asks for one.
fn step(pulse: &mut Pulse, expected: Verdict) -> Instant {
    let now = pulse.next_deadline();
    assert_eq!(pulse.tick(now, unknown), expected);
    if expected != Verdict::Quiet {
        pulse.beat_sent(now);
    }
    now
}

#[test]
fn a_silent_connection_is_suspect_after_one_beat_and_dead_after_as_many_as_misses() {
    let (mut pulse, start) = pulse();
    let seen = until_dead(&mut pulse, start);
    use Verdict::*;
    assert_eq!(verdicts(&seen), [Beat, Suspect, Missed, Dead(Death::Silent)]);
    let took = seen.last().unwrap().0;
    assert!(took <= beats().budget() && took > beats().budget() - SECOND / 2, "{took:?}");
    assert_eq!(pulse.missed(), 2);
}

#[test]
fn with_bytes_unacknowledged_suspicion_comes_in_a_second_and_a_half_and_death_no_sooner() {
    let (mut pulse, start) = pulse();
    pulse.set_rtt(20 * MS);
    pulse.outstanding(true, 0, start);
    let seen = until_dead(&mut pulse, start);
    let (suspect_at, _) = *seen.iter().find(|(_, verdict)| *verdict == Verdict::Suspect).unwrap();
    assert!(suspect_at <= 1500 * MS && suspect_at > 1400 * MS, "{suspect_at:?}");
    let took = seen.last().unwrap().0;
    assert!(took <= beats().budget() && took > beats().budget() - SECOND / 2, "{took:?}");
    let times: Vec<_> = seen.iter().map(|(at, _)| *at).collect();
    assert!(times[2..seen.len() - 1].windows(2).all(|two| two[1] - two[0] == beats().timeout), "then every timeout");
}

#[test]
fn on_a_long_path_early_suspicion_waits_for_round_trips() {
    let (mut pulse, start) = pulse();
    pulse.set_rtt(600 * MS);
    pulse.outstanding(true, 0, start);
    let beat = step(&mut pulse, Verdict::Beat);
    assert!(beat - start > 2200 * MS && beat - start <= 2400 * MS, "{:?}", beat - start);
    assert_eq!(step(&mut pulse, Verdict::Suspect) - beat, 2400 * MS);
}

#[test]
fn own_numbers_that_are_shorter_hold_over_the_early_ones() {
    heartbeat::origin();
    let start = Instant::now() + SECOND;
    let short = Beats { interval: 400 * MS, timeout: 100 * MS, misses: 3 };
    let mut pulse = Pulse::new(short, start, 1);
    pulse.outstanding(true, 0, start);
    let took = until_dead(&mut pulse, start).last().unwrap().0;
    assert!(took <= short.budget());
}

#[test]
fn a_request_after_a_pause_is_no_reason_for_a_beat_beside_it() {
    let (mut pulse, start) = pulse();
    let asked = start + 3 * SECOND;
    pulse.outstanding(true, 0, asked);
    assert!(pulse.next_deadline() >= asked + 900 * MS);
    pulse.outstanding(false, 10, asked + 50 * MS);
    pulse.heard(asked + 50 * MS);
    assert!(pulse.next_deadline() > asked + 4 * SECOND, "answered: only the interval counts");
}

#[test]
fn bytes_that_follow_a_beat_make_nobody_suspect_in_hindsight() {
    let (mut pulse, _) = pulse();
    let beat = step(&mut pulse, Verdict::Beat);
    let later = beat + SECOND;
    pulse.outstanding(true, 0, later);
    assert_eq!(pulse.next_deadline(), later + QUICK_ANSWER);
}

#[test]
fn any_byte_proves_the_connection_and_tells_that_a_suspicion_was_wrong() {
    let (mut pulse, _) = pulse();
    step(&mut pulse, Verdict::Beat);
    let suspect = step(&mut pulse, Verdict::Suspect);
    assert!(pulse.is_suspect());
    assert!(pulse.heard(suspect + SECOND), "recovered");
    assert!(!pulse.is_suspect() && pulse.missed() == 0);
    assert!(!pulse.heard(suspect + 2 * SECOND), "told once");
    assert!(pulse.next_deadline() > suspect + 6 * SECOND, "the silence is counted from the last byte");
}

#[test]
fn the_round_trip_is_told_by_the_clock_that_comes_back() {
    let (mut pulse, start) = pulse();
    let clock = pulse.beat_sent(start + SECOND);
    let again = pulse.beat_sent(start + SECOND);
    assert!(again > clock, "no clock is sent twice");
    assert_eq!(pulse.pong(start + SECOND + 80 * MS, clock), Some(80 * MS));
    assert_eq!(pulse.rtt(), Some(80 * MS));
    assert_eq!(pulse.pong(start + 2 * SECOND, u64::MAX), None, "never sent");
    assert_eq!(pulse.pong(start + 2 * SECOND, 0), None, "never sent");
    let mut next = Pulse::new(beats(), start + 3 * SECOND, 1);
    assert_eq!(next.pong(start + 4 * SECOND, clock), None, "a replay of an earlier connection's");
}

#[test]
fn a_beat_that_came_back_from_an_outage_does_not_blunt_early_suspicion() {
    let (mut pulse, start) = pulse();
    pulse.set_rtt(20 * MS);
    let clock = pulse.beat_sent(start + MS);
    assert_eq!(pulse.pong(start + MS + 10 * SECOND, clock), Some(10 * SECOND));
    assert!(pulse.rtt().unwrap() < 300 * MS);
}

#[test]
fn a_beat_still_moving_through_a_slow_connection_makes_nothing_dead_and_one_that_stands_does() {
    let (mut pulse, start) = pulse();
    pulse.outstanding(true, 0, start);
    let beat = pulse.next_deadline();
    pulse.beat_sent(beat);
    let mut now = beat;
    for looks in 1..100 {
        now = pulse.next_deadline();
        let moving = Delivery { all_acknowledged: false, acknowledged: looks * 1000, last_acknowledged: 100 * MS };
        assert_eq!(pulse.tick(now, || Some(moving)), Verdict::Quiet, "look {looks}");
    }
    assert!(now - beat > beats().budget(), "longer than the budget");
    // From here it stands: zero-window probes are acknowledged, the figure does not move.
    let stands = now - 100 * MS;
    let stuck = Delivery { all_acknowledged: false, acknowledged: 99_000, last_acknowledged: 10 * MS };
    while pulse.tick(now, || Some(stuck)) != Verdict::Dead(Death::Silent) {
        if now >= pulse.next_deadline() {
            pulse.beat_sent(now);
        }
        now = pulse.next_deadline().max(now);
    }
    assert_eq!(now - stands, beats().timeout * beats().misses);
}

#[test]
fn a_stopped_peer_whose_kernel_acknowledges_is_dead_within_the_budget() {
    let (mut pulse, start) = pulse();
    pulse.outstanding(true, 0, start);
    let mut acknowledged = 0;
    let mut now = start;
    let dead = loop {
        now = pulse.next_deadline().max(now);
        // An upload goes on into the peer's kernel: the beat has arrived, acknowledgements never stop.
        acknowledged += 1_000_000;
        assert!(now - start < 60 * SECOND, "never dies");
        let arrived = Delivery { all_acknowledged: true, acknowledged, last_acknowledged: MS };
        match pulse.tick(now, || Some(arrived)) {
            Verdict::Dead(death) => break (now - start, death),
            Verdict::Quiet => {}
            _ => {
                pulse.beat_sent(now);
            }
        }
    };
    assert_eq!(dead.1, Death::Silent);
    assert!(dead.0 <= beats().budget(), "{dead:?}");
}

#[test]
fn fault_14_own_pause_reads_before_it_judges_asks_again_at_once_and_excuses_only_once() {
    let (mut pulse, start) = pulse();
    pulse.outstanding(true, 0, start);
    step(&mut pulse, Verdict::Beat);
    let woke = start + 30 * SECOND;
    assert_eq!(pulse.tick(woke, unknown), Verdict::Beat, "we were asleep, not the peer");
    pulse.beat_sent(woke);
    assert!(pulse.next_deadline() > woke, "one round to read");
    let mut alive = pulse.clone();
    assert!(!alive.heard(woke + MS), "what had arrived proves it, and it never was suspect");
    let end = pulse.next_deadline();
    assert_eq!(pulse.tick(end, unknown), Verdict::Dead(Death::Silent), "but only one round");
    assert!(end - woke <= beats().timeout);
}

#[test]
fn fault_14_a_pause_while_nothing_was_due_sends_a_beat_and_gives_it_its_whole_time() {
    let (mut pulse, start) = pulse();
    let woke = start + 60 * SECOND;
    assert_eq!(pulse.tick(woke, unknown), Verdict::Beat);
    pulse.beat_sent(woke);
    assert_eq!(pulse.next_deadline(), woke + beats().timeout);
}

/// Answers each beat at once and lets the acknowledgement stand, or move with each.
fn beats_answered(moving: bool) -> (Duration, Option<Death>) {
    let (mut pulse, start) = pulse();
    let mut acked = 1000;
    pulse.outstanding(true, acked, start);
    for _ in 0..100 {
        let now = pulse.next_deadline();
        if let Verdict::Dead(death) = pulse.tick(now, unknown) {
            return (now - start, Some(death));
        }
        let clock = pulse.beat_sent(now);
        pulse.heard(now + MS);
        pulse.pong(now + MS, clock);
        acked += u64::from(moving);
        pulse.outstanding(true, acked, now + MS);
    }
    (pulse.next_deadline() - start, None)
}

#[test]
fn fault_48_an_acknowledgement_that_stands_for_a_budget_while_beats_pass_is_a_loss() {
    let (took, death) = beats_answered(false);
    assert_eq!((took, death), (beats().budget(), Some(Death::Stalled)));
    assert_eq!(beats_answered(true).1, None, "but not one that moves");
}

#[test]
fn bytes_on_their_way_for_longer_than_a_budget_are_no_stall_until_a_beat_behind_them_passed() {
    let (mut pulse, start) = pulse();
    pulse.outstanding(true, 0, start);
    let now = start + 30 * SECOND;
    pulse.heard(now);
    assert_eq!(pulse.tick(now, unknown), Verdict::Quiet);
    let beat = step(&mut pulse, Verdict::Beat);
    let clock = pulse.awaited().unwrap();
    pulse.heard(beat + MS);
    pulse.pong(beat + MS, clock);
    assert!(pulse.next_deadline() <= beat + MS, "now it is one");
    assert_eq!(pulse.tick(beat + MS, unknown), Verdict::Beat, "after a round in which an ACK may be read");
    pulse.beat_sent(beat + MS);
    let mut now = beat + MS;
    for _ in 0..20 {
        pulse.heard(now); // beats that come back put it off no further
        now = pulse.next_deadline().max(now);
        match pulse.tick(now, unknown) {
            Verdict::Dead(death) => {
                assert_eq!(death, Death::Stalled);
                assert!(now - beat <= SECOND);
                return;
            }
            Verdict::Quiet => {}
            _ => {
                pulse.beat_sent(now);
            }
        }
    }
    panic!("never a loss");
}

#[test]
fn a_retune_kills_no_healthy_connection_and_counts_at_once() {
    let (mut pulse, _) = pulse();
    let beat = step(&mut pulse, Verdict::Beat);
    let now = beat + 2900 * MS;
    let short = Beats { interval: 200 * MS, timeout: 50 * MS, misses: 1 };
    pulse.retune(short, now);
    assert_eq!(pulse.tick(now, unknown), Verdict::Quiet, "not dead in hindsight");
    pulse.heard(now + 10 * MS);
    assert!(pulse.next_deadline() <= now + 210 * MS, "and the next beat comes by the new numbers");
    let long = Beats { interval: 60 * SECOND, ..beats() };
    pulse.retune(long, now + 10 * MS);
    assert!(pulse.next_deadline() > now + 50 * SECOND);
}

/// A wire in memory with TCP's manners: in order, late, and a lost packet comes again after a retransmission timeout.
struct Wire {
    random: fastrand::Rng,
    rtt: (u64, u64),
    loss: f64,
    last: Instant,
    arrivals: VecDeque<(Instant, u64)>,
}

impl Wire {
    fn send(&mut self, now: Instant, clock: u64) {
        let mut delay = MS * u32::try_from(self.random.u64(self.rtt.0..=self.rtt.1) / 2).unwrap();
        let mut timeout = MS * u32::try_from(self.rtt.1.max(100) * 2).unwrap();
        while self.random.f64() < self.loss {
            delay += timeout;
            timeout *= 2;
        }
        self.last = self.last.max(now + delay);
        self.arrivals.push_back((self.last, clock));
    }
}

/// An hour of beats over such a wire; how often the connection was suspect, and whether it died.
fn an_hour(seed: u64, beats: Beats, rtt: (u64, u64), loss: f64) -> (u32, bool) {
    heartbeat::origin();
    let start = Instant::now() + SECOND;
    let mut pulse = Pulse::new(beats, start, seed);
    let wire = |salt| Wire {
        random: fastrand::Rng::with_seed(seed ^ salt),
        rtt,
        loss,
        last: start,
        arrivals: VecDeque::new(),
    };
    let (mut out, mut back) = (wire(1), wire(2));
    let mut random = fastrand::Rng::with_seed(seed ^ 3);
    let mut suspicions = 0;
    let mut acked = 0;
    let mut now = start;
    while now - start < 3600 * SECOND {
        let next = [Some(pulse.next_deadline()), out.arrivals.front().map(|a| a.0), back.arrivals.front().map(|a| a.0)];
        now = now.max(next.into_iter().flatten().min().unwrap());
        while out.arrivals.front().is_some_and(|a| a.0 <= now) {
            let (_, clock) = out.arrivals.pop_front().unwrap();
            back.send(now, clock);
        }
        while back.arrivals.front().is_some_and(|a| a.0 <= now) {
            let (_, clock) = back.arrivals.pop_front().unwrap();
            pulse.heard(now);
            assert!(pulse.pong(now, clock).is_some());
            acked += 1;
            // Sometimes bytes of ours are out, sometimes not.
            pulse.outstanding(random.bool(), acked, now);
        }
        match pulse.tick(now, unknown) {
            Verdict::Quiet => {}
            Verdict::Dead(_) => return (suspicions, true),
            verdict => {
                suspicions += u32::from(verdict == Verdict::Suspect);
                let clock = pulse.beat_sent(now);
                out.send(now, clock);
            }
        }
    }
    (suspicions, false)
}

#[test]
fn fault_19_and_20_no_false_death_at_5_percent_loss_nor_on_a_long_unsteady_path() {
    let mut suspicions = 0;
    for seed in 0..20 {
        let (suspect, dead) = an_hour(seed, beats(), (200, 400), 0.05);
        assert!(!dead, "seed {seed}");
        suspicions += suspect;
    }
    assert!(suspicions < 20 * 30, "{suspicions} suspicions in 20 hours of beats about every 3 s");
    let far_too_short = Beats { interval: SECOND, timeout: 100 * MS, misses: 2 };
    assert!(an_hour(1, far_too_short, (200, 400), 0.05).1, "the same path does kill numbers below its round trip");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever the settings, and whenever the silence begins: bytes out or not, heard or not before.
    #[test]
    fn a_dead_connection_is_noticed_within_the_budget(
        interval in 200u64..20_000, timeout in 50u64..10_000, misses in 1u32..10, rtt in 0u64..800,
        heard in prop::collection::vec((1u64..5000, any::<bool>()), 0..20), unacked in any::<bool>(), seed in any::<u64>(),
    ) {
        heartbeat::origin();
        let settings = Beats { interval: MS * interval as u32, timeout: MS * timeout as u32, misses };
        let start = Instant::now() + SECOND;
        let mut pulse = Pulse::new(settings, start, seed);
        pulse.set_rtt(MS * rtt as u32);
        let (mut now, mut last) = (start, start);
        let mut acked = 0;
        for (pause, unacked) in heard {
            now += MS * pause as u32;
            while pulse.next_deadline() <= now {
                let at = pulse.next_deadline();
                if let Verdict::Dead(_) = pulse.tick(at, unknown) {
                    prop_assert!(at - last <= settings.budget(), "{:?}", at - last);
                    return Ok(());
                }
                pulse.beat_sent(at);
            }
            pulse.heard(now);
            acked += 1;
            pulse.outstanding(unacked, acked, now);
            last = now;
        }
        pulse.outstanding(unacked, acked, now);
        let took = until_dead(&mut pulse, last).last().unwrap().0;
        prop_assert!(took <= settings.budget(), "{took:?}");
        prop_assert!(took + settings.interval / 5 >= settings.budget(), "too early: {took:?}");
    }
}

#[test]
fn fault_46_after_a_suspension_a_link_is_asked_at_once_and_judged_by_nothing_older() {
    let (mut pulse, start) = pulse();
    // Nothing was due for seconds, and none of them counts.
    pulse.ask_at_once(start + SECOND);
    assert!(pulse.next_deadline() <= start + SECOND);
    assert_eq!(pulse.tick(start + SECOND, unknown), Verdict::Beat);
    let echo = pulse.beat_sent(start + SECOND);
    assert_eq!(pulse.tick(start + SECOND, unknown), Verdict::Quiet, "one is enough");
    pulse.pong(start + SECOND + MS, echo);
    pulse.heard(start + SECOND + MS);
    assert_eq!((pulse.missed(), pulse.is_suspect()), (0, false));

    // On the brink of death: what was out before may have died with the machine's sleep.
    while pulse.missed() < 2 {
        let now = pulse.next_deadline();
        assert_ne!(pulse.tick(now, unknown), Verdict::Quiet);
        pulse.beat_sent(now);
    }
    let woken = pulse.next_deadline() - MS;
    pulse.ask_at_once(woken);
    assert_eq!(pulse.tick(woken, unknown), Verdict::Beat);
    pulse.beat_sent(woken);
    assert_eq!(pulse.next_deadline(), woken + 3 * SECOND);
    assert_eq!(pulse.tick(woken + 3 * SECOND, unknown), Verdict::Dead(Death::Silent));
}
