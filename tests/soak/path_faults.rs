//! Faults of the network between the sidecar and one place, by the relay there.

use std::time::Duration;

use fastrand::Rng;

use super::faults::{Done, Lane, between};
use super::relay::{How, Relay, Way, Weather};
use super::world::Place;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Reset,
    Resets,
    End,
    Silence,
    SilentUp,
    SilentDown,
    Forgotten,
    Cut,
    Refusing,
    Slices,
    Delay,
    Slow,
    /// The server of direct mode: restarted, and without answers to beats.
    Restart,
    Deaf,
}

use Path::{
    Cut, Deaf, Delay, End, Forgotten, Refusing, Reset, Resets, Restart, Silence, SilentDown, SilentUp, Slices, Slow,
};

pub const TUNNEL: [Path; 15] = [
    Reset, Resets, End, Silence, Silence, SilentUp, SilentDown, Forgotten, Cut, Cut, Cut, Refusing, Slices, Delay, Slow,
];
pub const DIRECT: [Path; 11] =
    [Reset, End, Silence, SilentDown, Forgotten, Cut, Refusing, Slices, Delay, Restart, Deaf];

pub async fn run(lane: &mut Lane, path: Path, rng: &mut Rng) -> Done {
    let relay = lane.site.relays[lane.place as usize].clone();
    let (tempo, touched) = (lane.tempo, relay.touched());
    let (cuts, accepted) = (relay.cuts(), relay.accepted());
    let kind = match path {
        Reset => {
            relay.cut(How::Reset);
            "reset"
        }
        Resets => {
            // Some of them meet a dial, a handshake or a resume.
            for _ in 0..rng.u32(3..12) {
                relay.cut(How::Reset);
                tokio::time::sleep(Duration::from_millis(rng.u64(1..300))).await;
            }
            "resets in a row"
        }
        End => {
            relay.cut(How::End);
            "end"
        }
        Silence => {
            spell(&relay, Weather { stalled: [true, true], ..Weather::default() }, tempo.silence(rng)).await;
            "silence"
        }
        SilentUp => {
            spell(&relay, Weather { stalled: [true, false], ..Weather::default() }, tempo.silence(rng)).await;
            "silence up"
        }
        SilentDown => {
            spell(&relay, Weather { stalled: [false, true], ..Weather::default() }, tempo.silence(rng)).await;
            "silence down"
        }
        Forgotten => {
            relay.cut(How::Silence);
            found_out(lane, &relay, rng).await;
            "forgotten flows"
        }
        Cut => {
            let way = if rng.bool() { Way::Up } else { Way::Down };
            let how = [How::Reset, How::End, How::Silence][rng.usize(0..3)];
            relay.cut_after(way, rng.usize(1..30_000), how);
            tokio::time::sleep(tempo.weather(rng)).await;
            relay.no_limits();
            if how == How::Silence {
                found_out(lane, &relay, rng).await;
            }
            match how {
                How::Reset => "reset after n bytes",
                How::End => "end after n bytes",
                How::Silence => "silence after n bytes",
            }
        }
        Refusing => {
            relay.weather(Weather { refusing: true, ..Weather::default() });
            relay.cut(How::Reset);
            tokio::time::sleep(tempo.silence(rng)).await;
            relay.weather(Weather::default());
            "refused dials"
        }
        Slices => {
            let slice = [1, 3, 17, 100][rng.usize(0..4)];
            spell(&relay, Weather { slice, ..Weather::default() }, tempo.weather(rng)).await;
            "slices"
        }
        Delay => {
            let (delay, jitter) = (between(rng, (0.005, 0.1)), between(rng, (0.0, 0.1)));
            spell(&relay, Weather { delay, jitter, ..Weather::default() }, tempo.weather(rng)).await;
            "delay and jitter"
        }
        Slow => {
            let rate = rng.u64(16_000..128_000);
            spell(&relay, Weather { rate, ..Weather::default() }, tempo.weather(rng)).await;
            "slow path"
        }
        Restart => {
            lane.site.close_server();
            tokio::time::sleep(tempo.silence(rng)).await;
            if let Err(error) = lane.site.open_server().await {
                lane.world().fail(format!("the server does not open: {error}"));
            }
            "server restarted"
        }
        Deaf => {
            lane.site.deafen_server(true);
            tokio::time::sleep(tempo.silence(rng)).await;
            lane.site.deafen_server(false);
            "beats unanswered"
        }
    };
    let took_place = match path {
        Reset | Resets | End | Forgotten | Cut => relay.cuts() > cuts,
        Refusing => relay.cuts() > cuts && relay.accepted() > accepted,
        Restart | Deaf => true,
        Silence | SilentUp | SilentDown | Slices | Delay | Slow => relay.touched() > touched,
    };
    (kind, took_place)
}

/// A tunnel finds out by its beats. What a client uses directly has none, and the relay's kernel acknowledges all it sends:
/// somebody has to say that the flow is no more.
async fn found_out(lane: &Lane, relay: &Relay, rng: &mut Rng) {
    if lane.place == Place::Server {
        tokio::time::sleep(lane.tempo.silence(rng)).await;
        relay.cut(How::Reset);
    }
}

async fn spell(relay: &Relay, weather: Weather, time: Duration) {
    relay.weather(weather);
    tokio::time::sleep(time).await;
    relay.weather(Weather::default());
}
