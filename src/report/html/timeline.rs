//! The picture of an outage: what was up when, which holes there were, and when it was all back.

use crate::model::report::{Outage, Sampled};
use crate::report::prose;

/// Where the time begins and ends, in the picture's own units, and what a lane takes.
const LEFT: f64 = 210.0;
const RIGHT: f64 = 830.0;
const TOP: usize = 24;
const LANE: usize = 24;
/// The least width of a span: a hole of a millisecond has to be seen in a window of minutes.
const LEAST: f64 = 2.5;
/// Lanes of holes, and of local targets, that are shown.
const LANES: usize = 20;

/// One outage as it is drawn.
pub(super) struct Timeline {
    pub(super) method: String,
    pub(super) line: String,
    pub(super) height: usize,
    pub(super) ticks: Vec<Tick>,
    pub(super) lanes: Vec<Lane>,
    pub(super) marks: Vec<Tick>,
    pub(super) holes: Vec<String>,
    pub(super) resolution: Option<String>,
    pub(super) samples: Vec<Sample>,
    pub(super) events: Vec<String>,
}

/// A moment.
pub(super) struct Tick {
    pub(super) x: String,
    pub(super) label: String,
}

/// What is drawn in one line.
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) y: usize,
    pub(super) spans: Vec<Span>,
    pub(super) note: Option<String>,
}

/// A part of a lane.
pub(super) struct Span {
    pub(super) class: &'static str,
    pub(super) x: String,
    pub(super) width: String,
    pub(super) title: String,
}

/// A row of what was sent.
pub(super) struct Sample {
    pub(super) what: String,
    pub(super) sent: u64,
    pub(super) refused: u64,
    pub(super) refusal: String,
}

/// Milliseconds to the picture's units.
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn x(&self, ms: f64) -> f64 {
        let share = (ms - self.from) / (self.to - self.from);
        LEFT + (RIGHT - LEFT) * share.clamp(0.0, 1.0)
    }

    fn span(&self, class: &'static str, from: f64, to: f64, title: String) -> Span {
        let x = self.x(from).min(RIGHT - LEAST);
        let width = (self.x(to) - x).max(LEAST);
        Span { class, x: format!("{x:.1}"), width: format!("{width:.1}"), title }
    }
}

pub(super) fn of(outage: &Outage) -> Timeline {
    let moments = [outage.up_ms, outage.recovered_ms, outage.tunnel_back_ms, outage.blackhole_ms];
    let holes = outage.holes.iter().map(|hole| hole.to_ms);
    let last = moments.into_iter().flatten().chain(holes).fold(1.0, f64::max);
    let scale = Scale { from: -0.04 * last, to: 1.04 * last };
    let mut lanes = vec![tunnel(outage, &scale, last)];
    let mut protos: Vec<&str> = outage.holes.iter().map(|hole| hole.proto.as_str()).collect();
    protos.sort_unstable();
    protos.dedup();
    for proto in protos.into_iter().take(LANES) {
        lanes.push(hole_lane(outage, proto, &scale));
    }
    if outage.holes.is_empty() {
        let note = if outage.samples > 0 { "no packet left" } else { "nothing was sent" };
        lanes.push(Lane { name: "uplink".to_owned(), y: 0, spans: Vec::new(), note: Some(note.to_owned()) });
    }
    for local in outage.local.iter().take(LANES) {
        let share = if local.watched_ms > 0.0 { local.reached_ms / local.watched_ms } else { 0.0 };
        let title = format!("answered {} of {} times", local.answered, local.asked);
        let up = outage.up_ms.unwrap_or(last);
        // When it did not answer is not on record, how long is.
        let reached =
            scale.span("tunnel", outage.down_ms, outage.down_ms + (up - outage.down_ms) * share, title.clone());
        let mut spans = vec![scale.span("dark", outage.down_ms, up, title.clone())];
        spans.extend((share > 0.0).then_some(reached));
        lanes.push(Lane { name: local.target.clone(), y: 0, spans, note: Some(title) });
    }
    for (at, lane) in lanes.iter_mut().enumerate() {
        lane.y = TOP + at * LANE;
        lane.name = shortened(&lane.name);
    }
    let mark = |ms: f64, label: &str| Tick { x: format!("{:.1}", scale.x(ms)), label: label.to_owned() };
    let mut marks = vec![mark(outage.down_ms, "told to go")];
    marks.extend(outage.up_ms.map(|ms| mark(ms, "told to come back")));
    marks.extend(outage.recovered_ms.map(|ms| mark(ms, "exit proven again")));
    Timeline {
        method: outage.method.clone(),
        line: prose::outage(outage),
        height: TOP + lanes.len() * LANE,
        ticks: ticks(&scale, last),
        lanes,
        marks,
        holes: prose::holes(outage),
        resolution: prose::resolution(outage),
        samples: outage.sampled.iter().map(sample).collect(),
        events: outage.events.iter().map(prose::evidence).collect(),
    }
}

/// The tunnel itself: carrying, dark, and back.
fn tunnel(outage: &Outage, scale: &Scale, last: f64) -> Lane {
    let dark = outage.blackhole_ms.unwrap_or(last);
    let back = outage.tunnel_back_ms.or(outage.recovered_ms);
    let mut spans = vec![scale.span("tunnel", scale.from, dark, "the tunnel carries".to_owned())];
    if outage.blackhole_ms.is_some() {
        spans.push(scale.span("dark", dark, back.unwrap_or(scale.to), "dark".to_owned()));
    }
    spans.extend(back.map(|back| scale.span("tunnel", back, scale.to, "the tunnel carries again".to_owned())));
    let note = match (outage.recovered_ms, outage.up_ms) {
        (Some(recovered), Some(up)) => format!("back in {}", prose::span(recovered - up)),
        _ => "not back".to_owned(),
    };
    Lane { name: "tunnel".to_owned(), y: 0, spans, note: Some(note) }
}

fn hole_lane(outage: &Outage, proto: &str, scale: &Scale) -> Lane {
    let holes: Vec<_> = outage.holes.iter().filter(|hole| hole.proto == proto).collect();
    let packets: u64 = holes.iter().map(|hole| hole.packets).sum();
    let spans = holes.iter().map(|hole| {
        let title =
            format!("{} from {:.1} to {:.1} ms", prose::count(hole.packets, "packet"), hole.from_ms, hole.to_ms);
        scale.span("uplink", hole.from_ms, hole.to_ms, title)
    });
    Lane { name: proto.to_owned(), y: 0, spans: spans.collect(), note: Some(prose::count(packets, "packet")) }
}

/// Five moments or so, at round times.
fn ticks(scale: &Scale, last: f64) -> Vec<Tick> {
    let magnitude = 10f64.powf((last / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * magnitude).into_iter().find(|step| last / step <= 6.0);
    let step = step.unwrap_or(10.0 * magnitude);
    (0..=(last / step) as usize)
        .map(|number| number as f64 * step)
        .map(|ms| Tick { x: format!("{:.1}", scale.x(ms)), label: moment(ms, step) })
        .collect()
}

fn moment(ms: f64, step: f64) -> String {
    match ms {
        0.0 => "0".to_owned(),
        _ if step >= 1_000.0 => format!("{:.0} s", ms / 1_000.0),
        _ if step >= 100.0 => format!("{:.1} s", ms / 1_000.0),
        _ if step >= 1.0 => format!("{ms:.0} ms"),
        _ => format!("{ms:.2} ms"),
    }
}

fn sample(sample: &Sampled) -> Sample {
    let refusal = match (&sample.refusal, sample.first_refusal_ms) {
        (Some(name), Some(ms)) => format!("{name} after {}", prose::span(ms.max(0.0))),
        (Some(name), None) => name.clone(),
        _ => String::new(),
    };
    Sample { what: sample.what.clone(), sent: sample.sent, refused: sample.refused, refusal }
}

/// What fits before the bars.
fn shortened(name: &str) -> String {
    const ROOM: usize = 28;
    if name.chars().count() <= ROOM { name.to_owned() } else { name.chars().take(ROOM - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    fn within(timeline: &Timeline) -> bool {
        let spans = timeline.lanes.iter().flat_map(|lane| &lane.spans);
        spans
            .map(|span| (span.x.parse::<f64>().unwrap(), span.width.parse::<f64>().unwrap()))
            .all(|(x, width)| x >= LEFT && x + width <= RIGHT + LEAST && width >= LEAST)
    }

    #[test]
    fn a_short_hole_is_seen_in_a_long_window() {
        let mut outage = sample::failing().outages[0].clone();
        outage.up_ms = Some(600_000.0);
        outage.recovered_ms = Some(601_000.0);
        outage.tunnel_back_ms = Some(600_900.0);
        let timeline = of(&outage);
        assert!(within(&timeline));
        let lane = timeline.lanes.iter().find(|lane| lane.name == "udp").unwrap();
        assert_eq!((lane.spans[0].class, lane.note.as_deref()), ("uplink", Some("3 packets")));
    }

    #[test]
    fn whatever_is_missing_there_is_a_picture() {
        let mut outage = sample::failing().outages[0].clone();
        (outage.blackhole_ms, outage.up_ms, outage.recovered_ms, outage.tunnel_back_ms) = (None, None, None, None);
        outage.holes.clear();
        assert!(within(&of(&outage)));
        assert!(of(&outage).ticks.len() >= 2);
    }

    #[test]
    fn ticks_are_round_and_few() {
        for last in [0.7, 1.0, 12.0, 480.0, 3_000.0, 6_200.0, 90_000.0, 600_000.0] {
            let ticks = ticks(&Scale { from: 0.0, to: last }, last);
            assert!((2..=7).contains(&ticks.len()), "{} for {last}", ticks.len());
        }
    }
}
