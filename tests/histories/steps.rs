//! What happens in a history, and what each step makes of the world.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Sim,
    world::{Cipher, News, PEOPLE, Said, object},
};
use statekeeper::{
    policy::Word,
    state::{HistoryVisibility, Membership, StateTuple},
};

/// What somebody's edit is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    Honest,
    /// It claims a time in the far future.
    Absurd,
    /// Its content has not the form that its type asks for.
    Misshapen,
    /// A ciphertext that stood in another event.
    Replay,
}

/// Something that happens. Numbers are taken modulo what there is, so that a step means something in every history.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Join(usize),
    Invite(usize),
    Leave(usize),
    Ban(usize),
    Edit {
        who: usize,
        device: usize,
        tuple: usize,
        edit: Edit,
    },
    /// Somebody's client says in plain what it should encrypt.
    SayInPlain {
        who: usize,
        tuple: usize,
        misshapen: bool,
    },
    Message {
        who: usize,
        device: usize,
    },
    Redact {
        who: usize,
        back: usize,
    },
    LogIn(usize),
    LogOut(usize, usize),
    Sign(usize, usize),
    Unsign(usize, usize),
    NewIdentity(usize),
    OutOfKeys(usize, usize),
    Power(usize, i64),
    Visibility(usize),
    GiveKey(usize),
    RepeatEvent(usize),
    Confirm(usize),
    Block(usize),
    Unblock(usize),
    Say(usize, bool),
    Rotate,
    Resume(usize),
    Take(usize),
    Poll(usize),
    Pump,
    Visit,
    Wait(i64),
    Kill,
}

/// A step with the seed of what is left to chance in it, so that no step changes another's.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub act: Act,
    pub seed: u64,
}

/// The steps of a history.
pub fn steps(rng: &mut StdRng) -> Vec<Step> {
    let count = rng.random_range(12..48);
    (0..count).map(|_| Step { act: act(rng), seed: rng.random() }).collect()
}

pub fn act(rng: &mut StdRng) -> Act {
    let who = rng.random_range(0..PEOPLE);
    let device = rng.random_range(0..4);
    match rng.random_range(0..100) {
        0..8 => Act::Join(who),
        8..11 => Act::Invite(who),
        11..17 => Act::Leave(who),
        17..19 => Act::Ban(who),
        19..22 => {
            Act::SayInPlain { who, tuple: rng.random_range(0..7), misshapen: rng.random_bool(0.1) }
        }
        22..33 => Act::Edit {
            // Those with power edit more.
            who: if rng.random_bool(0.6) { who % 2 } else { who },
            device,
            tuple: rng.random_range(0..8),
            edit: match rng.random_range(0..12) {
                0 => Edit::Absurd,
                1 => Edit::Misshapen,
                2 => Edit::Replay,
                _ => Edit::Honest,
            },
        },
        33..34 => Act::Message { who, device },
        34..39 => Act::Redact { who, back: rng.random_range(0..6) },
        39..42 => Act::LogIn(who),
        42..45 => Act::LogOut(who, device),
        45..47 => Act::Sign(who, device),
        47..49 => Act::Unsign(who, device),
        49..50 => Act::NewIdentity(who),
        50..52 => Act::OutOfKeys(who, device),
        52..54 => Act::Power(who, rng.random_range(0..4) * 25),
        54..55 => Act::Visibility(rng.random_range(0..4)),
        55..60 => Act::GiveKey(device),
        60..63 => Act::RepeatEvent(rng.random_range(0..8)),
        63..64 => Act::Confirm(who),
        64..65 => Act::Block(who),
        65..66 => Act::Unblock(who),
        66..68 => Act::Say(who, rng.random()),
        68..69 => Act::Rotate,
        69..77 => Act::Take(rng.random_range(1..6)),
        77..82 => Act::Poll(rng.random_range(1..4)),
        82..83 => Act::Pump,
        83..93 => Act::Visit,
        93..97 => Act::Wait(wait(rng)),
        97..98 => Act::Resume(who),
        _ => Act::Kill,
    }
}

fn wait(rng: &mut StdRng) -> i64 {
    match rng.random_range(0..10) {
        0..6 => rng.random_range(1..2_000),
        6..9 => rng.random_range(2_000..60_000),
        _ => rng.random_range(60_000..2_000_000),
    }
}

/// The tuples that there are: what an invitee sees, other state, what is a user's own, and what is never sealed.
fn tuple(number: usize) -> StateTuple {
    match number {
        0..=3 => StateTuple::new("m.room.name", ""),
        4 => StateTuple::new("m.room.topic", ""),
        5 => StateTuple::new("org.example.plan", ""),
        6 => StateTuple::new("org.example.own", "@u1:s"),
        _ => StateTuple::new("m.room.power_levels", ""),
    }
}

impl Sim {
    /// Does what a step says, as far as that can be: the homeserver lets nobody do what he may not.
    pub fn act_out(&mut self, step: &Step) -> super::Done<()> {
        self.rng = StdRng::seed_from_u64(step.seed);
        self.note(|| format!("{:?}", step.act));
        self.now += self.rng.random_range(0..50);
        match step.act {
            Act::Take(count) => (0..count).for_each(|_| self.take_event()),
            Act::Poll(count) => (0..count).for_each(|_| self.poll()),
            Act::Pump => self.pump(),
            Act::Visit => return self.visit(),
            Act::Wait(time) => self.now += time,
            Act::Kill => self.start(),
            Act::Confirm(_)
            | Act::Block(_)
            | Act::Unblock(_)
            | Act::Say(..)
            | Act::Rotate
            | Act::Resume(_) => {
                self.hear_administrator(step.act);
            }
            _ => self.world_acts(step.act),
        }
        Ok(())
    }

    /// What people and their homeserver do, which may happen at any time.
    pub fn world_acts(&mut self, act: Act) {
        let now = self.now;
        let world = &mut self.world;
        match act {
            Act::Join(n) | Act::Invite(n) | Act::Leave(n) | Act::Ban(n) => {
                self.change_membership(act, n);
            }
            Act::Edit { who, device, tuple: number, edit } => {
                self.edit(who, device, &tuple(number), edit);
            }
            Act::Message { who, device } => {
                let Some(cipher) = self.encrypt_as(who, device) else { return };
                let sender = self.world.people[who].id.clone();
                self.world.send(sender, Said::Message(cipher), now, now);
            }
            Act::SayInPlain { who, tuple: number, misshapen } => {
                self.say_in_plain(who, &tuple(number), misshapen);
            }
            Act::Redact { who, back } => self.redact_as(who, back),
            Act::LogIn(n) => world.log_in(n),
            Act::LogOut(n, device) => self.with_device(n, device, |device, _| device.gone = true),
            Act::Sign(n, device) => {
                self.with_device(n, device, |device, identity| device.signed_by = Some(identity))
            }
            Act::Unsign(n, device) => self.with_device(n, device, |device, _| {
                device.signed_by = None;
            }),
            Act::NewIdentity(n) => {
                world.people[n].identity += 1;
                let identity = world.people[n].identity;
                let signed = self.rng.random_range(0..3);
                for (place, device) in world.people[n].devices.iter_mut().enumerate() {
                    device.signed_by = (place % 3 == signed).then_some(identity);
                }
                world.tell_of_devices(n);
            }
            Act::OutOfKeys(n, device) => {
                let devices = &mut world.people[n].devices;
                let place = device % devices.len();
                devices[place].reachable = !devices[place].reachable;
            }
            Act::Power(n, level) if world.membership(0) == Some(Membership::Join) && n > 0 => {
                let mut levels = serde_json::Value::Object(world.levels.clone());
                levels["users"][world.people[n].id.as_str()] = level.into();
                let owner = world.people[0].id.clone();
                world.send(owner, Said::Power(object(levels)), now, now);
            }
            Act::Visibility(n) if world.membership(0) == Some(Membership::Join) => {
                let owner = world.people[0].id.clone();
                world.send(owner, Said::Visibility(HistoryVisibility::ALL[n]), now, now);
            }
            Act::GiveKey(n) if !world.kept_back.is_empty() => {
                let key = world.kept_back.remove(n % world.kept_back.len());
                world.news.push_back(News::Key(key));
            }
            Act::RepeatEvent(back) if world.events.len() > back => {
                let place = world.events.len() - 1 - back;
                // It comes again after it came.
                if !world.pushed.contains(&place) {
                    world.pushed.push_back(place);
                }
            }
            _ => {}
        }
    }

    fn change_membership(&mut self, act: Act, n: usize) {
        use Membership::{Ban, Invite, Join, Leave};
        let (now, before) = (self.now, self.world.membership(n));
        let own = self.world.people[n].id.clone();
        let (sender, membership) = match (act, before) {
            (Act::Join(_), Some(Invite) | None | Some(Leave)) => (own.clone(), Join),
            (Act::Invite(_), None | Some(Leave)) => (self.keeper(), Invite),
            (Act::Leave(_), Some(Join | Invite)) if n > 0 => (own.clone(), Leave),
            (Act::Ban(_), Some(Join | Invite)) if n > 0 => (self.keeper(), Ban),
            (Act::Ban(_), Some(Ban)) => (self.keeper(), Leave),
            _ => return,
        };
        self.world.send(sender, Said::Member(own, membership), now, now);
        // Whoever shares the room from now on may have other devices than when he was heard of last.
        if membership == Join {
            self.world.tell_of_devices(n);
        }
    }

    fn with_device(
        &mut self,
        n: usize,
        device: usize,
        change: impl Fn(&mut super::world::Device, u32),
    ) {
        let person = &mut self.world.people[n];
        let place = device % person.devices.len();
        change(&mut person.devices[place], person.identity);
        self.world.tell_of_devices(n);
    }

    /// A device encrypts something under its own session. The keeper is given the key now, later or never.
    fn encrypt_as(&mut self, n: usize, device: usize) -> Option<Cipher> {
        if self.world.membership(n) != Some(Membership::Join) {
            return None;
        }
        let living: Vec<usize> = (0..self.world.people[n].devices.len())
            .filter(|place| !self.world.people[n].devices[*place].gone)
            .collect();
        let place = *living.get(device % living.len().max(1))?;
        let late = self.chance(20);
        let device = &mut self.world.people[n].devices[place];
        let (session, index) = (format!("m{}", device.id), device.next_index);
        device.next_index += 1;
        if index == 0 {
            if late {
                self.world.kept_back.push(session.clone());
            } else {
                self.world.news.push_back(News::Key(session.clone()));
            }
        }
        Some(Cipher { session, index })
    }

    fn edit(&mut self, who: usize, device: usize, tuple: &StateTuple, edit: Edit) {
        let sender = self.world.people[who].id.clone();
        // The homeserver looks at the outer type.
        if !self.world.power().may_send_state(&sender, "m.room.encrypted") {
            return;
        }
        let Some(mut cipher) = self.encrypt_as(who, device) else { return };
        if edit == Edit::Replay && cipher.index > 0 {
            cipher.index -= 1;
        }
        let number = self.rng.random_range(0..1_000_000);
        let content = match (tuple.event_type.as_str(), edit) {
            ("m.room.name", Edit::Misshapen) => serde_json::json!({ "name": number }),
            ("m.room.name", _) => serde_json::json!({ "name": number.to_string() }),
            _ => serde_json::json!({ "topic": number.to_string() }),
        };
        let year = 365 * 24 * 3_600_000;
        let claims = self.now + if edit == Edit::Absurd { 2000 * year } else { 0 };
        let said = Said::State {
            tuple: tuple.clone(),
            cipher,
            content: object(content),
            stands_for: None,
        };
        let id = self.world.send(sender.clone(), said, self.now, claims);
        self.note(|| format!("{sender} sets {tuple} as {id}"));
    }

    /// Of state in plain the homeserver checks the power for the type, and whose the state key is.
    fn say_in_plain(&mut self, who: usize, tuple: &StateTuple, misshapen: bool) {
        let sender = self.world.people[who].id.clone();
        let power = self.world.power();
        let may = power.may_send_state(&sender, &tuple.event_type)
            && power.may_own(&sender, &tuple.state_key);
        if !may || self.world.membership(who) != Some(Membership::Join) {
            return;
        }
        let number = self.rng.random_range(0..1_000_000);
        let content = match (tuple.event_type.as_str(), misshapen) {
            ("m.room.name", true) => serde_json::json!({ "name": number }),
            ("m.room.name", false) => serde_json::json!({ "name": number.to_string() }),
            _ => serde_json::json!({ "topic": number.to_string() }),
        };
        let said = Said::Plain { tuple: tuple.clone(), content: object(content) };
        let id = self.world.send(sender.clone(), said, self.now, self.now);
        self.note(|| format!("{sender} says {tuple} in plain as {id}"));
    }

    /// Somebody redacts one of the newest state events, if he may.
    fn redact_as(&mut self, who: usize, back: usize) {
        let sender = self.world.people[who].id.clone();
        if self.world.membership(who) != Some(Membership::Join) {
            return;
        }
        let states = self.world.events.iter().rev();
        let mut states =
            states.filter(|event| matches!(event.said, Said::State { .. } | Said::Plain { .. }));
        let Some(target) = states.nth(back).cloned() else { return };
        let may = target.sender == sender || self.world.power().may_redact_other(&sender);
        if !may || self.world.is_taken_back(&target.id) {
            return;
        }
        self.world.send(sender, Said::Redaction(target.id), self.now, self.now);
    }

    /// An administrator's command, from another process. Each is one commit with a mark.
    pub fn hear_administrator(&mut self, act: Act) {
        let user = |n: usize| self.world.people[n].id.clone();
        let user = match act {
            Act::Confirm(n) => {
                let user = user(n);
                let Some(known) = self.rows.identities.get_mut(&user) else { return };
                let Some(changed_to) = known.changed_to.take() else { return };
                known.master_key = changed_to;
                user
            }
            Act::Block(n) => {
                let user = user(n);
                self.rows.blocks.insert(user.clone());
                user
            }
            Act::Unblock(n) => {
                let user = user(n);
                if !self.rows.blocks.remove(&user) {
                    return;
                }
                user
            }
            Act::Say(n, approves) => {
                let user = user(n);
                let member = self.rows.members.get(&user).map(|member| member.membership);
                if !matches!(member, Some(Membership::Join | Membership::Invite)) {
                    return;
                }
                let word = if approves { Word::Approved } else { Word::Denied };
                self.rows.words.insert(user.clone(), word);
                user
            }
            Act::Rotate => return self.rotate(),
            Act::Resume(n) => {
                let user = user(n);
                self.rows.settle_war(&user, self.now);
                return;
            }
            _ => return,
        };
        let member = self.rows.members.get(&user).map(|member| member.membership);
        if matches!(member, Some(Membership::Join | Membership::Invite)) {
            self.rows.mark(Some(&user), self.now);
        }
    }
}
