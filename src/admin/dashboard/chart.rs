//! Bars over time, drawn here: a picture with its content in words, and all of its numbers in a table.

use maud::{Markup, html};

use super::{
    trends::{SLOT, SLOTS},
    words::number,
};
use crate::keeper::clock::to_second;

/// How high the picture is, in its own units.
const HEIGHT: f64 = 40.0;
/// How many slots a row of the table has: an hour.
const TOGETHER: usize = 4;

/// Bars.
pub(super) struct Chart<'a> {
    /// Its name in the page.
    pub id: &'a str,
    /// What it shows.
    pub title: &'a str,
    /// What of it counts most, in a few words.
    pub summary: String,
    /// What is piled up, the lowest first.
    pub series: Vec<Series<'a>>,
    /// Whether the numbers of an hour are added up; the largest of them stands for it otherwise.
    pub adds_up: bool,
}

/// One kind of what is piled up.
pub(super) struct Series<'a> {
    /// What it is.
    pub name: &'a str,
    /// Its colour: `one`, `two`, `three`.
    pub class: &'a str,
    /// A number for each slot.
    pub values: Vec<u64>,
}

impl Chart<'_> {
    /// The picture and the table. `newest` is when the last slot began.
    pub(super) fn draw(&self, newest: i64) -> Markup {
        let highest = self.highest();
        html! {
            section .card.chart aria-labelledby={ (self.id) "-title" } {
                h3 id={ (self.id) "-title" } { (self.title) }
                p .summary { (self.summary) }
                @if highest == 0 {
                    p .calm { "None in the last 24 hours" }
                } @else {
                    div .plot {
                        span .most aria-hidden="true" { (spaced(highest)) }
                        svg role="img" aria-labelledby={ (self.id) "-alt" } viewBox={ "0 0 " (SLOTS) " " (HEIGHT) }
                            preserveAspectRatio="none" {
                            title id={ (self.id) "-alt" } { (self.words(newest)) }
                            @for slot in 0..SLOTS { (self.column(slot, highest)) }
                        }
                        p .axis aria-hidden="true" { span { "24 h ago" } span { "12 h" } span { "now" } }
                    }
                }
                @if highest > 0 && self.series.len() > 1 {
                    ul .legend {
                        @for series in &self.series {
                            li { span class={ "swatch " (series.class) } aria-hidden="true" {} (series.name) }
                        }
                    }
                }
                @if highest > 0 { (self.table(newest)) }
            }
        }
    }

    fn column(&self, slot: usize, highest: u64) -> Markup {
        let mut top = HEIGHT;
        html! {
            @for series in &self.series {
                @let value = at(&series.values, slot);
                @if value > 0 {
                    @let height = (ratio(value, highest) * HEIGHT).max(1.0);
                    @let y = { top -= height; top.max(0.0) };
                    rect class=(series.class) x=(slot) y=(format!("{y:.2}")) width="0.8" height=(format!("{height:.2}")) {}
                }
            }
        }
    }

    fn highest(&self) -> u64 {
        (0..SLOTS).map(|slot| self.sum(slot)).max().unwrap_or(0)
    }

    fn sum(&self, slot: usize) -> u64 {
        self.series.iter().map(|series| at(&series.values, slot)).sum()
    }

    fn words(&self, newest: i64) -> String {
        let (highest, title) = (self.highest(), self.title);
        let busiest = (0..SLOTS).rev().find(|slot| self.sum(*slot) == highest).unwrap_or(0);
        format!(
            "{title}, the last 24 hours by the quarter of an hour: at most {highest}, from {}. {}",
            clock(newest, busiest),
            self.summary
        )
    }

    fn table(&self, newest: i64) -> Markup {
        let hours: Vec<usize> = (0..SLOTS).step_by(TOGETHER).rev().collect();
        let of = |series: &Series<'_>, first: usize| {
            let slots = (first..first + TOGETHER).map(|slot| at(&series.values, slot));
            if self.adds_up { slots.sum() } else { slots.max().unwrap_or(0) }
        };
        html! {
            details {
                summary { "The numbers" span .unseen { " of: " (self.title) } }
                table .small {
                    thead {
                        tr {
                            th scope="col" { "Hour from" }
                            @for series in &self.series { th scope="col" .number { (series.name) } }
                        }
                    }
                    tbody {
                        @for first in hours {
                            tr {
                                th scope="row" { (clock(newest, first)) }
                                @for series in &self.series { td .number { (spaced(of(series, first))) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn at(values: &[u64], slot: usize) -> u64 {
    values.get(slot).copied().unwrap_or(0)
}

fn spaced(value: u64) -> String {
    number(i64::try_from(value).unwrap_or(i64::MAX))
}

#[allow(clippy::cast_precision_loss)] // A bar is some dozens of pixels high.
fn ratio(value: u64, highest: u64) -> f64 {
    value as f64 / highest.max(1) as f64
}

/// The hour and minute at which a slot began.
fn clock(newest: i64, slot: usize) -> String {
    let back = i64::try_from(SLOTS.saturating_sub(slot + 1)).unwrap_or(0);
    let began = to_second(newest.saturating_sub(back * SLOT));
    began.get(11..16).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_769_860_800_000;

    fn chart(values: Vec<u64>) -> String {
        let series = vec![Series { name: "given", class: "one", values }];
        let chart = Chart {
            id: "keys",
            title: "Keys",
            summary: "7 keys".to_owned(),
            series,
            adds_up: true,
        };
        chart.draw(NOON).into_string()
    }

    #[test]
    fn the_picture_says_in_words_and_in_a_table_what_it_shows() {
        let mut values = vec![0; SLOTS];
        (values[91], values[95]) = (2, 5);
        let drawn = chart(values);
        assert_eq!(drawn.matches("<rect").count(), 2, "{drawn}");
        assert!(drawn.contains("at most 5, from 12:00. 7 keys</title>"), "{drawn}");
        assert!(
            drawn.contains("<th scope=\"row\">11:15</th><td class=\"number\">5</td>"),
            "{drawn}"
        );
        assert!(
            drawn.contains("<th scope=\"row\">10:15</th><td class=\"number\">2</td>"),
            "{drawn}"
        );
        assert!(!drawn.contains("style="), "the policy allows no styles in the page");
    }

    #[test]
    fn nothing_at_all_is_said_too() {
        let drawn = chart(Vec::new());
        assert!(drawn.contains("None in the last 24 hours") && !drawn.contains("<svg"), "{drawn}");
    }
}
