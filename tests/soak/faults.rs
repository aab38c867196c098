//! The faults: a lane for each place they happen to, each by a generator of its own under the seed of the run.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::site::Site;
use super::talk::{Door, Kind};
use super::world::{DEADLINE, Fault, Phase, Place, RECOVERY, World};
use super::{gateway_faults, path_faults, sidecar_faults};

/// How fast one fault follows another, and how long each is.
#[derive(Debug, Clone, Copy)]
pub struct Tempo {
    /// Seconds between the recovery from one and the next.
    pub gap: (f64, f64),
    /// Seconds that nothing passes at the longest; below the deadline of a resume.
    pub silence: f64,
    /// Seconds that a process stands still at the longest.
    pub stop: f64,
    /// Seconds of bad weather.
    pub weather: (f64, f64),
    /// How often the metrics are read.
    pub look: Duration,
}

impl Tempo {
    /// For minutes and hours.
    pub const STEADY: Self = Self {
        gap: (2.0, 14.0),
        silence: DEADLINE.as_secs_f64() - 6.0,
        stop: 4.0,
        weather: (2.0, 10.0),
        look: Duration::from_secs(1),
    };
    /// For a look of some seconds.
    pub const BRISK: Self =
        Self { gap: (0.2, 0.8), silence: 3.0, stop: 1.0, weather: (0.3, 1.0), look: Duration::from_millis(250) };

    pub fn gap(&self, rng: &mut Rng) -> Duration {
        between(rng, self.gap)
    }

    /// A third each: too short to be noticed, longer than any budget, and up to the longest.
    pub fn silence(&self, rng: &mut Rng) -> Duration {
        let longest = self.silence;
        match rng.u8(0..3) {
            0 => between(rng, (0.1, 1.0)),
            1 => between(rng, (1.0, longest.min(6.0))),
            _ => between(rng, (longest * 0.5, longest)),
        }
    }

    pub fn stop(&self, rng: &mut Rng) -> Duration {
        between(rng, (0.1, self.stop))
    }

    pub fn weather(&self, rng: &mut Rng) -> Duration {
        between(rng, self.weather)
    }
}

pub fn between(rng: &mut Rng, (from, to): (f64, f64)) -> Duration {
    Duration::from_secs_f64(from + rng.f64() * (to - from))
}

/// What a fault was, and whether it met anybody.
pub type Done = (&'static str, bool);

/// Starts all lanes. Each rests in calms.
pub fn start(site: &Arc<Site>, tempo: Tempo) {
    for place in Place::ALL {
        let site = site.clone();
        tokio::spawn(async move {
            let mut rng = site.world.rng(1 + place as u64);
            let mut lane = Lane { site: site.clone(), place, tempo, tuning: Default::default(), bag: Vec::new() };
            while site.world.until_storm().await {
                site.world.sleep(tempo.gap(&mut rng)).await;
                if *site.world.phase.borrow() == Phase::Storm {
                    site.world.busy(place, true);
                    lane.one(&mut rng).await;
                    site.world.busy(place, false);
                }
            }
        });
    }
}

/// The faults of one place, one after another.
pub struct Lane {
    pub site: Arc<Site>,
    pub place: Place,
    pub tempo: Tempo,
    pub tuning: super::config::Tuning,
    /// Faults still to come before any comes again.
    bag: Vec<usize>,
}

impl Lane {
    pub fn world(&self) -> &World {
        &self.site.world
    }

    /// Picks among `count` kinds, in a new order each time all have been there.
    pub fn pick(&mut self, rng: &mut Rng, count: usize) -> usize {
        if self.bag.is_empty() {
            self.bag = (0..count).collect();
            rng.shuffle(&mut self.bag);
        }
        self.bag.pop().unwrap_or_default()
    }

    async fn one(&mut self, rng: &mut Rng) {
        let from = self.world().now();
        let (kind, took_place) = match self.place {
            Place::A | Place::B => {
                let paths = path_faults::TUNNEL.len();
                match self.pick(rng, paths + gateway_faults::ALL.len()) {
                    which if which < paths => path_faults::run(self, path_faults::TUNNEL[which], rng).await,
                    which => gateway_faults::run(self, gateway_faults::ALL[which - paths], rng).await,
                }
            }
            Place::Server => {
                let which = self.pick(rng, path_faults::DIRECT.len());
                self.world().excuse(Place::Server);
                path_faults::run(self, path_faults::DIRECT[which], rng).await
            }
            Place::Sidecar => {
                let which = self.pick(rng, sidecar_faults::ALL.len());
                sidecar_faults::run(self, sidecar_faults::ALL[which], rng).await
            }
        };
        let until = self.world().now();
        let recovery = self.recovered(kind, until).await;
        if self.place == Place::Server {
            self.world().excuse_no_more(Place::Server);
        }
        let kind = if took_place { kind } else { MET_NOBODY };
        self.world().fault(Fault { place: self.place, kind, from, until, recovery });
    }

    /// Waits until everybody who talked here has moved again and the links are up: the milliseconds until the former.
    async fn recovered(&self, kind: &'static str, since: f64) -> Option<f64> {
        let waiting = || {
            let talks = self.world().talks();
            // Who waits outside for a gateway that is away has its own time.
            let here = |place: Option<Place>| match self.place {
                Place::Sidecar => place.is_some_and(|place| !self.world().is_busy(place)),
                _ => place == Some(self.place),
            };
            let old = talks.into_iter().filter(|talk| talk.kind == Kind::Long && here(talk.place()));
            old.filter(|talk| talk.last() < since && !*talk.finish.borrow()).collect::<Vec<_>>()
        };
        let any = !waiting().is_empty();
        while !waiting().is_empty() {
            if self.world().now() - since > RECOVERY.as_secs_f64() && !self.others_are_busy() {
                for talk in waiting() {
                    talk.blame(
                        self.world(),
                        &format!("nothing has moved for {RECOVERY:?} since the end of \"{kind}\""),
                    );
                }
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = any.then(|| (self.world().now() - since) * 1e3);
        let up = self.site.until(RECOVERY, |sample| self.links(sample.up)).await;
        if !up && !self.others_are_busy() {
            self.world().fail(format!("{}: the links are not up {RECOVERY:?} after \"{kind}\"", self.place.name()));
        }
        took
    }

    /// Whether those links are up that this place alone has to do with.
    fn links(&self, up: [f64; 4]) -> bool {
        let [left, right, _, direct] = up;
        match self.place {
            Place::A => left >= 2.0,
            Place::B => right >= 2.0,
            Place::Server => direct >= 3.0,
            Place::Sidecar => true,
        }
    }

    /// Somebody else may be the reason why nothing moves here.
    fn others_are_busy(&self) -> bool {
        match self.place {
            Place::Sidecar => Place::ALL.iter().any(|place| *place != Place::Sidecar && self.world().is_busy(*place)),
            _ => self.world().is_busy(Place::Sidecar),
        }
    }

    /// Talks of this place, to be told something.
    pub fn talks(&self) -> Vec<Arc<super::talk::Talk>> {
        self.world().talks_at(self.place)
    }

    /// The upstream that leads here and nowhere else.
    pub fn door(&self) -> Door {
        match self.place {
            Place::A => Door::Left,
            Place::B => Door::Right,
            Place::Server | Place::Sidecar => Door::Direct,
        }
    }
}

/// What a fault is called that took place while there was nobody it could happen to.
pub const MET_NOBODY: &str = "met nobody";
