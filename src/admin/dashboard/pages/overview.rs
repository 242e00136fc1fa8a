//! The first page: are people getting their keys, and what needs me now?

use axum::response::Response;
use maud::{Markup, html};

use super::{Visitor, answer};
use crate::{
    admin::dashboard::{
        chart::{Chart, Series},
        fields::link,
        page::Place,
        trends::{Slot, View},
        words::{self, Tone, count, number},
    },
    keeper::operator::{Query, Spaces, Status},
};

/// How long what is due may stand before it is said, in seconds.
const LATE: f64 = 30.0;
/// Within how many seconds a joiner sees no difference.
const FAST: f64 = 0.25;
/// Within how many seconds a joiner waits for a moment.
const SLOW: f64 = 1.0;

/// Something that needs somebody.
#[derive(Debug, PartialEq)]
struct Need {
    tone: Tone,
    sentence: String,
    /// A page that shows more, and what it is called.
    more: Option<(String, &'static str)>,
}

/// Shows it.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let status = answer!(visitor, Place::Overview, Query::Status, Status);
    let spaces = answer!(visitor, Place::Overview, Query::Spaces, Spaces);
    let oldest = visitor.dashboard.inner.metrics.oldest_due();
    let needs = needs(&status, &spaces, oldest);
    let day = visitor.dashboard.look();
    visitor.page(Place::Overview, "Overview", html! {
        h1 { "Overview" }
        (headline(&needs))
        (tiles(&status, &day))
        section aria-labelledby="day" {
            h2 #day { "The last 24 hours" }
            p .hint { "By the quarter of an hour, as far as this process has seen it: it runs since " (words::time(status.started_at, visitor.now)) "." }
            div .charts { (charts(&day)) (rotations(&day)) }
        }
        (facts(&status, visitor.now))
    })
}

fn needs(status: &Status, spaces: &Spaces, oldest: f64) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut need = |is: bool, tone, sentence: String, more| {
        if is {
            needs.push(Need { tone, sentence, more });
        }
    };
    let rooms = |status: &str| Some((link("rooms", &[("status", status)]), "Which rooms"));
    let lacking = status.rooms.get("not_elevated").copied().unwrap_or(0);
    need(
        !status.ready,
        Tone::Bad,
        format!(
            "The keeper is not ready: it waits for {}. Nobody gets keys until then.",
            status.missing.join(", ")
        ),
        None,
    );
    for trouble in &status.troubles {
        need(true, Tone::Bad, format!("There is trouble: {trouble}."), None);
    }
    need(
        oldest > LATE,
        Tone::Bad,
        format!("Somebody has waited for keys for {oldest:.0} seconds."),
        rooms("waiting"),
    );
    need(
        lacking > 0,
        Tone::Bad,
        format!(
            "In {} the keeper may not seal state: it lacks the power to send m.room.encrypted.",
            count(lacking, "room", "rooms")
        ),
        rooms("not_elevated"),
    );
    need(
        status.held > 0,
        Tone::Warn,
        format!(
            "{} for your word, without a key until then.",
            count(status.held, "member waits", "members wait")
        ),
        Some((link("holds", &[]), "Decide")),
    );
    need(
        status.undecryptable > 0,
        Tone::Warn,
        format!(
            "The keeper cannot read {} itself. Setting it once more heals it.",
            count(status.undecryptable, "value", "values")
        ),
        rooms("undecryptable"),
    );
    let changes = spaces.spaces.iter().map(|space| &space.change);
    let stuck = changes.chain(spaces.rooms.iter().map(|room| &room.change)).flatten().count();
    need(
        stuck > 0,
        Tone::Warn,
        format!(
            "{} of your spaces need a change by an administrator.",
            count(i64::try_from(stuck).unwrap_or(0), "room", "rooms")
        ),
        Some((link("spaces", &[]), "Which ones")),
    );
    need(
        status.noop,
        Tone::Bad,
        "Noop is on: everything is decided, and nothing is sent.".to_owned(),
        None,
    );
    need(
        status.noop_configured && !status.noop,
        Tone::Warn,
        "The configuration says noop for all rooms or for some: nothing is sent there.".to_owned(),
        None,
    );
    needs
}

fn headline(needs: &[Need]) -> Markup {
    let tone = needs.iter().map(|need| need.tone).min();
    let (tone, sentence) = match tone {
        Some(Tone::Bad) => (Tone::Bad, "Something keeps people from their keys"),
        Some(Tone::Warn) => (Tone::Warn, "People get their keys. Something needs you"),
        _ => (Tone::Good, "People get their keys. Nothing needs you"),
    };
    html! {
        section class={ "headline " (tone.class()) } aria-labelledby="needs" {
            h2 #needs { span class={ "dot " (tone.class()) } aria-hidden="true" {} (sentence) }
            @if !needs.is_empty() {
                ul {
                    @for need in needs {
                        li class=(need.tone.class()) {
                            (need.sentence)
                            @if let Some((href, name)) = &need.more { " " a href=(href) { (name) } }
                        }
                    }
                }
            }
        }
    }
}

fn tiles(status: &Status, day: &View) -> Markup {
    let kept = status.rooms.get("kept").copied().unwrap_or(0);
    let all: i64 = status.rooms.values().sum();
    let shown = |sum: u64| number(i64::try_from(sum).unwrap_or(i64::MAX));
    html! {
        dl .tiles {
            (tile("Rooms kept", number(kept), &format!("of {} known", number(all))))
            (tile("Keys given", shown(day.sum(|slot| slot.given)), "in 24 hours"))
            (tile("Half of the joiners", within(day.joins_within(50)), "from join to keys"))
            (tile("95 of 100 joiners", within(day.joins_within(95)), "from join to keys"))
            (tile("To decide", number(status.due), &format!("{} later", number(status.later))))
            (tile("To send", number(status.sending), &format!("{} asked for", count(i64::try_from(status.key_requests).unwrap_or(i64::MAX), "key", "keys"))))
        }
    }
}

fn tile(name: &str, value: String, more: &str) -> Markup {
    html! { div .card { dt { (name) } dd { strong { (value) } " " span .hint { (more) } } } }
}

/// A bound as people say it.
fn within(bound: Option<f64>) -> String {
    match bound {
        None => "–".to_owned(),
        Some(bound) if bound.is_infinite() => "> 60 s".to_owned(),
        Some(bound) if bound < 1.0 => format!("≤ {:.0} ms", bound * 1_000.0),
        Some(bound) => format!("≤ {bound} s"),
    }
}

fn charts(day: &View) -> Markup {
    let values = |of: &dyn Fn(&Slot) -> u64| day.slots.iter().map(of).collect::<Vec<u64>>();
    let sum =
        |values: &[u64]| number(i64::try_from(values.iter().sum::<u64>()).unwrap_or(i64::MAX));
    let newest = day.slots.last().map_or(0, |slot| slot.began);
    let single = |id, title, name, class, values: Vec<u64>, summary: String, adds_up| {
        Chart { id, title, summary, series: vec![Series { name, class, values }], adds_up }
            .draw(newest)
    };
    let (given, refused) = (values(&|slot| slot.given), values(&|slot| slot.refused));
    let (held, rotated) = (values(&|slot| slot.held), values(&|slot| slot.rotated));
    let joins = [
        ("within 250 ms", "one", 0.0, FAST),
        ("within 1 s", "two", FAST, SLOW),
        ("longer", "three", SLOW, f64::INFINITY),
    ];
    let series: Vec<Series<'_>> = joins
        .map(|(name, class, from, to)| Series {
            name,
            class,
            values: values(&|slot| slot.joins_between(from, to)),
        })
        .into();
    let all = sum(&values(&|slot| slot.joins_between(0.0, f64::INFINITY)));
    let (given_sum, refused_sum, rotated_sum) = (sum(&given), sum(&refused), sum(&rotated));
    let most = number(i64::try_from(held.iter().copied().max().unwrap_or(0)).unwrap_or(i64::MAX));
    html! {
        (single("given", "Keys given", "Given", "one", given, format!("{given_sum} in all"), true))
        (Chart { id: "joins", title: "Joins, by the time to their keys", summary: format!("{all} in all"), series, adds_up: true }.draw(newest))
        (single("refused", "Keys refused", "Refused", "three", refused, format!("{refused_sum} in all"), true))
        (single("held", "Members held", "Held", "two", held, format!("{most} at most"), false))
        (single("rotated", "Sessions rotated", "Rotated", "one", rotated, format!("{rotated_sum} in all"), true))
    }
}

fn rotations(day: &View) -> Markup {
    let some: Vec<_> = day.rotations.iter().filter(|(_, count)| **count > 0).collect();
    html! {
        section .card aria-labelledby="rotations" {
            h3 #rotations { "Why sessions were rotated" }
            @if some.is_empty() {
                p .hint { "None was since the start." }
            } @else {
                table .small {
                    thead { tr { th scope="col" { "Reason" } th scope="col" .number { "Since the start" } } }
                    tbody {
                        @for (reason, count) in some {
                            tr { th scope="row" { (words::text(&words::spoken(reason))) } td .number { (count) } }
                        }
                    }
                }
            }
        }
    }
}

fn facts(status: &Status, now: i64) -> Markup {
    html! {
        section .card aria-labelledby="keeper" {
            h2 #keeper { "The keeper" }
            dl .facts {
                dt { "User" } dd { (words::id(status.user_id.as_str())) }
                dt { "Device" } dd { (words::some_id(status.device_id.as_ref().map_or("", |id| id.as_str()))) }
                dt { "Homeserver" } dd { (words::id(&status.homeserver)) }
                dt { "Runs since" } dd { (words::time(status.started_at, now)) }
                dt { "Sessions in use" } dd { (number(status.sessions)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_user_id;

    use super::*;

    fn status() -> Status {
        Status {
            version: String::new(),
            user_id: owned_user_id!("@keeper:localhost"),
            device_id: None,
            homeserver: String::new(),
            started_at: 0,
            ready: true,
            missing: Vec::new(),
            troubles: Vec::new(),
            noop: false,
            noop_configured: false,
            rooms: [("kept".to_owned(), 3)].into(),
            held: 0,
            undecryptable: 0,
            due: 0,
            later: 0,
            sending: 0,
            key_requests: 0,
            sessions: 0,
        }
    }

    #[test]
    fn nothing_needs_anybody_where_all_is_well() {
        assert_eq!(needs(&status(), &Spaces::default(), 0.0), []);
        assert!(headline(&[]).into_string().contains("Nothing needs you"));
    }

    #[test]
    fn what_needs_somebody_is_said_the_worst_in_the_headline() {
        let held = Status { held: 1, ..status() };
        let some = needs(&held, &Spaces::default(), 0.0);
        assert_eq!(some[0].sentence, "1 member waits for your word, without a key until then.");
        assert!(headline(&some).into_string().contains("headline warn"));
        let worse = Status {
            ready: false,
            missing: vec!["homeserver".to_owned()],
            rooms: [("not_elevated".to_owned(), 2)].into(),
            noop: true,
            ..held
        };
        let some = needs(&worse, &Spaces::default(), 31.0);
        assert_eq!(some.len(), 5, "{some:?}");
        assert!(headline(&some).into_string().contains("Something keeps people from their keys"));
    }
}
