//! The numbers of the last day, by the quarter of an hour. They are kept in memory and begin with the start.

use std::collections::{BTreeMap, VecDeque};

use crate::admin::metrics::Tally;

/// How long a slot is, in milliseconds.
pub(super) const SLOT: i64 = 15 * 60 * 1_000;
/// How many there are: a day.
pub(super) const SLOTS: usize = 96;

/// What happened in a quarter of an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// When it began, in milliseconds.
    pub began: i64,
    /// Keys that were given.
    pub given: u64,
    /// Keys that were refused.
    pub refused: u64,
    /// How many members were held at most.
    pub held: u64,
    /// Joins by how long their keys took, as in [`Tally::joins`].
    pub joins: Vec<u64>,
    /// Sessions that were retired.
    pub rotated: u64,
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Trends {
    last: Tally,
    slots: VecDeque<Slot>,
}

/// The last day.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Each quarter of an hour, the newest last.
    pub slots: Vec<Slot>,
    /// Sessions that were retired since the start, by reason.
    pub rotations: BTreeMap<String, u64>,
}

impl Trends {
    /// Takes in how the numbers stand at `now`.
    pub(super) fn note(&mut self, now: i64, tally: Tally) {
        let began = now.saturating_sub(now.rem_euclid(SLOT));
        if self.slots.back().is_none_or(|slot| slot.began < began) {
            self.slots.push_back(Slot { began, ..Slot::default() });
        }
        while self.slots.len() > SLOTS {
            self.slots.pop_front();
        }
        let all = |tally: &Tally| tally.rotations.values().sum::<u64>();
        if let Some(slot) = self.slots.back_mut() {
            slot.given += tally.given.saturating_sub(self.last.given);
            slot.refused += tally.refused.saturating_sub(self.last.refused);
            slot.rotated += all(&tally).saturating_sub(all(&self.last));
            slot.held = slot.held.max(tally.held);
            slot.joins.resize(tally.joins.len(), 0);
            let before = self.last.joins.iter().copied().chain(std::iter::repeat(0));
            for ((joins, now), before) in slot.joins.iter_mut().zip(&tally.joins).zip(before) {
                *joins += now.saturating_sub(before);
            }
        }
        self.last = tally;
    }

    /// The day that ends at `now`, with an empty slot for each of which nothing is known.
    pub(super) fn view(&self, now: i64) -> View {
        let newest = now.saturating_sub(now.rem_euclid(SLOT));
        let known: BTreeMap<i64, &Slot> =
            self.slots.iter().map(|slot| (slot.began, slot)).collect();
        let slots = (0_i64..).take(SLOTS).map(|back| newest.saturating_sub(back * SLOT));
        let mut slots: Vec<Slot> = slots
            .map(|began| match known.get(&began) {
                Some(slot) => (*slot).clone(),
                None => Slot { began, ..Slot::default() },
            })
            .collect();
        slots.reverse();
        View { slots, rotations: self.last.rotations.clone() }
    }
}

impl View {
    /// The sum of something over the day.
    pub(super) fn sum(&self, of: impl Fn(&Slot) -> u64) -> u64 {
        self.slots.iter().map(of).sum()
    }

    /// Within how many seconds this many of a hundred joins had their keys; `None` where nobody joined, infinite where
    /// it was longer than what is told apart.
    pub(super) fn joins_within(&self, percent: u64) -> Option<f64> {
        let mut counts = vec![0_u64; Tally::bounds().len() + 1];
        for slot in &self.slots {
            counts.iter_mut().zip(&slot.joins).for_each(|(count, joins)| *count += joins);
        }
        let all: u64 = counts.iter().sum();
        let wanted = (all * percent).div_ceil(100);
        let mut sum = 0;
        for (count, bound) in counts.iter().zip(Tally::bounds().iter().chain([&f64::INFINITY])) {
            sum += count;
            if all > 0 && sum >= wanted {
                return Some(*bound);
            }
        }
        None
    }
}

impl Slot {
    /// How many joins had their keys after more than `from` seconds and within `to`.
    pub(super) fn joins_between(&self, from: f64, to: f64) -> u64 {
        let bounds = Tally::bounds().iter().chain([&f64::INFINITY]);
        let within =
            self.joins.iter().zip(bounds).filter(|(_, bound)| from < **bound && **bound <= to);
        within.map(|(joins, _)| joins).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_769_860_800_000;

    fn tally(given: u64, fast: u64, slow: u64) -> Tally {
        let mut joins = vec![0; Tally::bounds().len() + 1];
        (joins[0], joins[16]) = (fast, slow);
        Tally { given, joins, held: given, ..Tally::default() }
    }

    #[test]
    fn what_happened_stands_in_the_quarter_in_which_it_was_seen() {
        let mut trends = Trends::default();
        trends.note(NOON, tally(3, 1, 0));
        trends.note(NOON + 1_000, tally(5, 1, 1));
        trends.note(NOON + SLOT, tally(6, 2, 1));
        let view = trends.view(NOON + SLOT + 1);
        assert_eq!(view.slots.len(), SLOTS);
        let given: Vec<u64> = view.slots.iter().map(|slot| slot.given).collect();
        assert_eq!((given[94], given[95], view.sum(|slot| slot.given)), (5, 1, 6));
        assert_eq!(view.slots[95].held, 6);
        assert_eq!((view.slots[94].began, view.slots[95].began), (NOON, NOON + SLOT));
        assert_eq!(view.slots[94].joins_between(0.0, 0.25), 1);
        assert_eq!(view.slots[94].joins_between(1.0, f64::INFINITY), 1);
    }

    #[test]
    fn a_day_is_kept_and_a_clock_that_goes_back_spoils_nothing() {
        let mut trends = Trends::default();
        for number in 0..200 {
            trends.note(NOON + number * SLOT, tally(number.unsigned_abs(), 0, 0));
        }
        assert_eq!(trends.slots.len(), SLOTS);
        trends.note(NOON, tally(250, 0, 0));
        assert_eq!(trends.slots.len(), SLOTS);
        assert_eq!(trends.view(NOON + 199 * SLOT).slots[95].given, 1 + 51);
        assert_eq!(trends.view(NOON + 500 * SLOT).sum(|slot| slot.given), 0, "it was long ago");
    }

    #[test]
    fn so_many_of_a_hundred_joins_are_within_a_bound() {
        let mut trends = Trends::default();
        assert_eq!(trends.view(NOON).joins_within(50), None);
        trends.note(NOON, tally(0, 95, 5));
        let view = trends.view(NOON);
        assert_eq!(view.joins_within(50), Some(0.005));
        assert_eq!(view.joins_within(95), Some(0.005));
        assert_eq!(view.joins_within(96), Some(f64::INFINITY));
    }
}
