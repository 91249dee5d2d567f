//! From when on the tunnel was dark in an outage, and when it carried something again: by what goes into it, by what comes out of it, or by
//! either. Pure.

use super::flow::Seen;
use super::method::DarkBy;
use super::watch::ASK_EVERY;
use crate::sensor::Trace;

/// Silence of the samples, which come twice a millisecond, that counts as dark.
const MIN_DARK_MS: f64 = 20.0;

/// What was seen of the tunnel. Times are milliseconds since the start of the run.
pub(super) struct Tunnel<'a> {
    /// When it was told to go.
    pub(super) start_ms: f64,
    /// When it was told to come back, or came by itself.
    pub(super) up_ms: f64,
    /// What went in.
    pub(super) trace: &'a Trace,
    /// Whether something did before the outage.
    pub(super) in_before: bool,
    /// What came out.
    pub(super) came: &'a Seen,
    /// Whether something did before the outage.
    pub(super) out_before: bool,
    /// Whether something came out of it when nobody but the sampler sent into it.
    pub(super) samples_answered: bool,
    /// The longest time between two samples.
    pub(super) longest_gap_ms: f64,
}

/// When it was dark, milliseconds since the beginning of the outage.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Dark {
    /// From then on.
    pub(super) from_ms: Option<f64>,
    /// Something passed again.
    pub(super) back_ms: Option<f64>,
}

impl Tunnel<'_> {
    /// When it was dark.
    ///
    /// # Errors
    /// Why nothing can be said of it.
    pub(super) fn dark(&self, by: DarkBy) -> Result<Dark, String> {
        match by {
            DarkBy::Entering => self.entering(),
            DarkBy::Leaving => self.leaving(),
            DarkBy::Paused { clogged } if !clogged && !self.samples_answered => Err(
                "nobody beyond the tunnel answers packets that die there, and the kernel does not say that nobody takes them out of it: \
                 its silence proves nothing while no name can be asked for"
                    .to_owned(),
            ),
            DarkBy::Paused { .. } => self.leaving(),
            DarkBy::Gone { since_ms } => {
                self.entering().map(|dark| Dark { from_ms: dark.from_ms.or(since_ms), back_ms: None })
            }
            DarkBy::Either => match (self.entering(), self.leaving()) {
                (Ok(dark), _) if dark.from_ms.is_some() => Ok(dark),
                (_, Ok(dark)) if dark.from_ms.is_some() => Ok(dark),
                (Ok(dark), _) | (_, Ok(dark)) => Ok(dark),
                (Err(why), Err(_)) => Err(why),
            },
        }
    }

    fn since(&self, at: f64) -> f64 {
        (at - self.start_ms).max(0.0)
    }

    /// From the last packet in the tunnel on, if there was any silence at all before it was told to come back, or else before it came back.
    fn entering(&self) -> Result<Dark, String> {
        if !self.in_before {
            return Err("no sample was seen in the tunnel before the outage, so its silence afterwards proves nothing"
                .to_owned());
        }
        let last = self.trace.last_before_mark_ms.map_or(0.0, |at| self.since(at));
        if self.up_ms - self.start_ms - last > MIN_DARK_MS {
            return Ok(Dark { from_ms: Some(last), back_ms: self.trace.first_after_mark_ms.map(|at| self.since(at)) });
        }
        // A sampler that was held up makes a silence of its own.
        let least = MIN_DARK_MS.max(2.0 * self.longest_gap_ms);
        let silence = self.trace.longest_silence_ms.filter(|(from, to)| to - from.max(self.start_ms) > least);
        Ok(silence.map_or_else(Dark::default, |(from, to)| Dark {
            from_ms: Some(self.since(from)),
            back_ms: Some(self.since(to)),
        }))
    }

    /// Answers come when they come: only a silence in which several questions went in means anything.
    fn leaving(&self) -> Result<Dark, String> {
        if !self.out_before {
            return Err(
                "nothing came out of the tunnel before the outage, so its silence afterwards proves nothing".to_owned()
            );
        }
        let last = self.came.last_before_mark_ms.map_or(0.0, |at| self.since(at));
        let (window, silent) = (self.up_ms - self.start_ms, self.up_ms - self.start_ms - last);
        let dark = silent > window / 2.0 && silent > 2.0 * ASK_EVERY.as_secs_f64() * 1000.0;
        Ok(Dark { from_ms: dark.then_some(last), back_ms: self.came.first_after_mark_ms.map(|at| self.since(at)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dark(trace: &Trace, came: &Seen, gap: f64, by: DarkBy) -> Result<Dark, String> {
        let tunnel = Tunnel {
            start_ms: 1000.0,
            up_ms: 3000.0,
            trace,
            in_before: trace.last_before_mark_ms.is_some(),
            came,
            out_before: came.last_ms.is_some(),
            samples_answered: false,
            longest_gap_ms: gap,
        };
        tunnel.dark(by)
    }

    fn went_in(last: f64, silence: Option<(f64, f64)>) -> Trace {
        let mut trace = Trace::default();
        (trace.last_before_mark_ms, trace.longest_silence_ms) = (Some(last), silence);
        trace
    }

    #[test]
    fn dark_until_it_was_told_to_come_back() {
        let mut trace = went_in(1002.0, None);
        trace.first_after_mark_ms = Some(3050.0);
        let found = dark(&trace, &Seen::default(), 1.0, DarkBy::Entering);
        assert_eq!(found, Ok(Dark { from_ms: Some(2.0), back_ms: Some(2050.0) }));
    }

    #[test]
    fn dark_until_it_came_back_by_itself() {
        let trace = went_in(2999.0, Some((1001.0, 2990.0)));
        let found = dark(&trace, &Seen::default(), 3.0, DarkBy::Entering);
        assert_eq!(found, Ok(Dark { from_ms: Some(1.0), back_ms: Some(1990.0) }));
    }

    #[test]
    fn a_sampler_that_was_held_up_is_no_darkness() {
        let trace = went_in(2999.0, Some((1500.0, 1560.0)));
        assert_eq!(dark(&trace, &Seen::default(), 59.0, DarkBy::Entering).unwrap().from_ms, None);
        assert_eq!(dark(&trace, &Seen::default(), 2.0, DarkBy::Entering).unwrap().from_ms, Some(500.0));
        // Nor is what ended before the outage had begun.
        assert_eq!(
            dark(&went_in(2999.0, Some((900.0, 1010.0))), &Seen::default(), 2.0, DarkBy::Entering).unwrap().from_ms,
            None
        );
    }

    #[test]
    fn nothing_before_proves_nothing() {
        for by in [DarkBy::Entering, DarkBy::Leaving, DarkBy::Either] {
            assert!(dark(&Trace::default(), &Seen::default(), 1.0, by).is_err(), "{by:?}");
        }
    }

    #[test]
    fn either_sign_is_enough_where_both_may_be() {
        let mut answered = Seen::default();
        (answered.last_ms, answered.last_before_mark_ms) = (Some(1010.0), Some(1010.0));
        let talking = went_in(2999.0, None);
        assert_eq!(dark(&talking, &answered, 1.0, DarkBy::Entering).unwrap().from_ms, None);
        assert_eq!(dark(&talking, &answered, 1.0, DarkBy::Leaving).unwrap().from_ms, Some(10.0));
        assert_eq!(dark(&talking, &answered, 1.0, DarkBy::Either).unwrap().from_ms, Some(10.0));
        assert_eq!(dark(&went_in(1002.0, None), &Seen::default(), 1.0, DarkBy::Either).unwrap().from_ms, Some(2.0));
    }
}
