//! What is seen each second: the metrics of the sidecar and of both gateways, and what the kernel says of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::child::{Usage, usage};
use super::site::Site;
use super::talk::Door;
use super::world::{Answers, Place, locked};

/// Series by their text up to the value, as in `everlink_links{state="up",upstream="left"}`.
pub type Series = BTreeMap<String, f64>;

#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Seconds since the start.
    pub at: f64,
    /// Whether the sidecar answered; otherwise what comes from its metrics is that of the last answer.
    pub answered: bool,
    /// By [`Door`]: links up (or in use), and links in all other states but these and `failed`.
    pub up: [f64; 4],
    pub not_up: [f64; 4],
    /// Losses so far, by door.
    pub losses: [f64; 4],
    /// Mean seconds of the answers to beats since the last sample, of all tunnels.
    pub beat: Option<f64>,
    /// Of questions through everlink.
    pub answers: Answers,
    /// Checked bytes so far: through tunnels up and down, and directly both ways.
    pub moved: [u64; 3],
    /// Unacknowledged bytes at the sidecar.
    pub kept: f64,
    /// Sidecar, gateway a, gateway b.
    pub usage: [Usage; 3],
    pub generation: f64,
    pub rejected: f64,
    pub stalls: f64,
    pub panics: f64,
}

/// All of them, and the last scrapes.
#[derive(Default)]
pub struct Record {
    pub samples: Mutex<Vec<Sample>>,
    pub sidecar: Mutex<Series>,
    pub gateways: [Mutex<Series>; 2],
}

/// Looks every `interval` until the runtime ends.
pub async fn watch(site: Arc<Site>, record: Arc<Record>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = (0.0, 0.0);
    let mut sample = Sample::default();
    loop {
        ticks.tick().await;
        sample = look(&site, &record, sample, &mut last).await;
        locked(&record.samples).push(sample.clone());
        site.latest.send_replace(sample.clone());
    }
}

async fn look(site: &Site, record: &Record, before: Sample, last: &mut (f64, f64)) -> Sample {
    let (a, b) = (site.gateway(Place::A), site.gateway(Place::B));
    let (sidecar, of_a, of_b) = tokio::join!(site.sidecar.get("/metrics"), a.get("/metrics"), b.get("/metrics"));
    for (place, answer) in [of_a, of_b].into_iter().enumerate() {
        if let Ok((200, text)) = answer {
            *locked(&record.gateways[place]) = parse(&text);
        }
    }
    site.world.is_starved();
    let tally = &site.world.tally;
    let load = |bytes: &[std::sync::atomic::AtomicU64; 2]| bytes.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
    let ([up, down], direct) = (load(&tally.tunnel), load(&tally.direct));
    let mut sample = Sample {
        at: site.world.now(),
        answered: false,
        beat: None,
        answers: site.world.take_answers(),
        moved: [up, down, direct[0] + direct[1]],
        usage: [site.sidecar.usage(), usage(&a.id().to_string()), usage(&b.id().to_string())],
        ..before
    };
    let Ok((200, text)) = sidecar else { return sample };
    let series = parse(&text);
    sample.answered = true;
    for door in Door::ALL {
        let links = |state: &str| value(&series, "links", &format!("state=\"{state}\""), door);
        sample.up[door as usize] = links("up") + links("in_use");
        sample.not_up[door as usize] = links("suspect") + links("connecting") + links("waiting");
        sample.losses[door as usize] = ["heartbeat", "closed", "reset", "error", "protocol"]
            .map(|reason| value(&series, "link_losses_total", &format!("reason=\"{reason}\""), door))
            .iter()
            .sum();
    }
    let of_tunnels = |name: &str| {
        [Door::Left, Door::Right, Door::Both].map(|door| value(&series, name, "", door)).iter().sum::<f64>()
    };
    let beats = (of_tunnels("heartbeat_rtt_seconds_sum"), of_tunnels("heartbeat_rtt_seconds_count"));
    sample.beat = (beats.1 > last.1).then(|| (beats.0 - last.0) / (beats.1 - last.1));
    *last = beats;
    sample.kept = of_tunnels("session_unacknowledged_bytes");
    let plain = |name: &str| series.get(name).copied().unwrap_or_default();
    sample.generation = plain("everlink_config_generation");
    sample.rejected = plain("everlink_config_reloads_total{outcome=\"rejected\"}");
    sample.stalls = plain("everlink_process_stalls_total");
    sample.panics = plain("everlink_task_panics_total");
    *locked(&record.sidecar) = series;
    sample
}

/// A series of an upstream, with one more label if it is not empty; 0 if there is none.
pub fn value(series: &Series, name: &str, label: &str, door: Door) -> f64 {
    let upstream = format!("upstream=\"{}\"", door.name());
    let spellings = if label.is_empty() {
        [format!("everlink_{name}{{{upstream}}}"), String::new()]
    } else {
        [format!("everlink_{name}{{{label},{upstream}}}"), format!("everlink_{name}{{{upstream},{label}}}")]
    };
    spellings.iter().find_map(|spelling| series.get(spelling)).copied().unwrap_or_default()
}

/// Everything but comments and buckets.
pub fn parse(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
    lines.filter_map(|line| line.rsplit_once(' ')).filter_map(|(n, v)| Some((n.to_owned(), v.parse().ok()?))).collect()
}

/// All samples as a table: a line of names, and one for each sample.
pub fn csv(samples: &[Sample]) -> String {
    let mut text =
        "seconds,answered,left_up,right_up,both_up,direct_up,left_losses,right_losses,both_losses,direct_losses,\
        beat_ms,answers,answers_mean_ms,answers_max_ms,tunnel_up_bytes,tunnel_down_bytes,direct_bytes,kept_bytes,\
        sidecar_kib,a_kib,b_kib,sidecar_fds,a_fds,b_fds\n"
            .to_owned();
    for sample in samples {
        let (answers, milliseconds) = (&sample.answers, |seconds: f64| format!("{:.3}", seconds * 1e3));
        let mut cells = vec![format!("{:.2}", sample.at), u8::from(sample.answered).to_string()];
        cells.extend(sample.up.iter().chain(&sample.losses).map(f64::to_string));
        cells.push(sample.beat.map(milliseconds).unwrap_or_default());
        cells.push(answers.count.to_string());
        cells.push(milliseconds(answers.sum / answers.count.max(1) as f64));
        cells.push(milliseconds(answers.max));
        cells.extend(sample.moved.iter().map(u64::to_string));
        cells.push(sample.kept.to_string());
        cells.extend(sample.usage.iter().map(|usage| usage.memory.to_string()));
        cells.extend(sample.usage.iter().map(|usage| usage.descriptors.to_string()));
        text += &cells.join(",");
        text.push('\n');
    }
    text
}
