//! Whose turn it is: round about over servers, and within a server over its users.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::fingerprint::Fingerprint;

/// A user who has requests parked.
#[derive(Debug)]
struct Waiting {
    server: Fingerprint,
    /// His requests by age, each with the time before which it need not be looked at.
    requests: BTreeMap<u64, Duration>,
    /// The same, the earliest to be looked at first.
    due: BTreeSet<(Duration, u64)>,
    /// He is before those with a greater one. It changes when he is served, and only then: whoever is
    /// woken in vain loses nothing by it.
    turn: u64,
    place: Place,
}

/// Where a user waits.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// For his turn.
    Line,
    /// Until a time before which none of his requests can be served.
    Asleep(Duration),
}

/// How greedy a user is: by how many requests he has parked, then by the age of the oldest.
type Greed = (usize, Reverse<u64>, Fingerprint);

#[derive(Debug, Default)]
struct Server {
    /// Its users who wait for their turn.
    line: BTreeMap<u64, Fingerprint>,
    /// The server's own turn, which changes when one of its users is served.
    turn: u64,
    users: BTreeSet<Greed>,
    parked: usize,
}

impl Server {
    /// How greedy its greediest user is, and then the server itself.
    fn greed(&self) -> Option<(usize, usize)> {
        self.users.last().map(|(most, ..)| (*most, self.parked))
    }
}

/// The order of parked requests, each known by its number: the greater, the younger.
#[derive(Debug, Default)]
pub struct Turns {
    users: HashMap<Fingerprint, Waiting>,
    servers: HashMap<Fingerprint, Server>,
    line: BTreeMap<u64, Fingerprint>,
    asleep: BTreeSet<(Duration, Fingerprint)>,
    greediest: BTreeSet<((usize, usize), Fingerprint)>,
    last_turn: u64,
}

impl Turns {
    /// Whether nobody waits for his turn.
    pub fn line_is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// When the first of those who sleep has to be woken.
    pub fn first_to_wake(&self) -> Option<Duration> {
        self.asleep.first().map(|(until, _)| *until)
    }

    /// Parks `request` of `user`, which need not be looked at before `due`. A user who was not there
    /// comes to the line's end, and so does one who sleeps, unless `asleep` says until when all of his
    /// requests have to wait.
    pub fn park(
        &mut self,
        (server, user): (Fingerprint, Fingerprint),
        request: u64,
        due: Duration,
        asleep: Option<Duration>,
    ) {
        self.count(user, false);
        let (turn, servers_turn) = (self.next_turn(), self.next_turn());
        self.servers
            .entry(server)
            .or_insert_with(|| Server { turn: servers_turn, ..Server::default() });
        let waiting = self.users.entry(user).or_insert_with(|| Waiting {
            server,
            turn,
            requests: BTreeMap::new(),
            due: BTreeSet::new(),
            place: Place::Asleep(Duration::MAX),
        });
        waiting.requests.insert(request, due);
        waiting.due.insert((due, request));
        let place = waiting.place;
        self.count(user, true);
        match (place, asleep) {
            (Place::Line, _) => {}
            (Place::Asleep(until), Some(asleep)) => self.sleep(user, until.min(asleep)),
            (Place::Asleep(_), None) => self.stand_in_line(user),
        }
    }

    /// Takes `request` out.
    pub fn remove(&mut self, user: Fingerprint, request: u64) {
        self.count(user, false);
        let Some(waiting) = self.users.get_mut(&user) else { return };
        if let Some(due) = waiting.requests.remove(&request) {
            waiting.due.remove(&(due, request));
        }
        if !waiting.requests.is_empty() {
            return self.count(user, true);
        }
        self.leave_place(user);
        let server = self.users.remove(&user).map(|waiting| waiting.server);
        if let Some(server) = server
            && self.servers.get(&server).is_some_and(|server| server.users.is_empty())
        {
            self.servers.remove(&server);
        }
    }

    /// Brings those whose sleep is over at `now` into the line.
    pub fn wake(&mut self, now: Duration) {
        while let Some((_, user)) = self.asleep.first().copied().filter(|(until, _)| *until <= now)
        {
            self.stand_in_line(user);
        }
    }

    /// Whose turn it is.
    pub fn first(&self) -> Option<Fingerprint> {
        let (_, server) = self.line.first_key_value()?;
        self.servers.get(server)?.line.first_key_value().map(|(_, user)| *user)
    }

    /// The request of `user` that has to be looked at first, if there is one at `now`.
    pub fn due(&self, user: Fingerprint, now: Duration) -> Option<u64> {
        let (due, request) = self.users.get(&user)?.due.first()?;
        (*due <= now).then_some(*request)
    }

    /// When a request of `user` has to be looked at.
    pub fn next_due(&self, user: Fingerprint) -> Option<Duration> {
        self.users.get(&user)?.due.first().map(|(due, _)| *due)
    }

    /// `request` of `user` need not be looked at again before `due`.
    pub fn postpone(&mut self, user: Fingerprint, request: u64, due: Duration) {
        let Some(waiting) = self.users.get_mut(&user) else { return };
        let Some(before) = waiting.requests.insert(request, due) else { return };
        waiting.due.remove(&(before, request));
        waiting.due.insert((due, request));
    }

    /// `user` had his turn: he and his server go to the end of their lines.
    pub fn rotate(&mut self, user: Fingerprint) {
        let (turn, servers_turn) = (self.next_turn(), self.next_turn());
        self.leave_place(user);
        let Some(waiting) = self.users.get_mut(&user) else { return };
        waiting.turn = turn;
        let Some(server) = self.servers.get_mut(&waiting.server) else { return };
        if self.line.remove(&server.turn).is_some() {
            self.line.insert(servers_turn, waiting.server);
        }
        server.turn = servers_turn;
        self.stand_in_line(user);
    }

    /// None of `user`'s requests has to be looked at before `until`.
    pub fn sleep(&mut self, user: Fingerprint, until: Duration) {
        self.leave_place(user);
        let Some(waiting) = self.users.get_mut(&user) else { return };
        waiting.place = Place::Asleep(until);
        self.asleep.insert((until, user));
    }

    /// The request that everybody can best do without: the oldest of the user who has most of them; of
    /// several such users, of one on the server that has most.
    pub fn most_useless(&self) -> Option<u64> {
        let (_, server) = self.greediest.last()?;
        let (_, Reverse(oldest), _) = self.servers.get(server)?.users.last()?;
        Some(*oldest)
    }

    fn next_turn(&mut self) -> u64 {
        self.last_turn = self.last_turn.saturating_add(1);
        self.last_turn
    }

    fn stand_in_line(&mut self, user: Fingerprint) {
        self.leave_place(user);
        let Some(waiting) = self.users.get_mut(&user) else { return };
        let Some(server) = self.servers.get_mut(&waiting.server) else { return };
        waiting.place = Place::Line;
        server.line.insert(waiting.turn, user);
        self.line.insert(server.turn, waiting.server);
    }

    fn leave_place(&mut self, user: Fingerprint) {
        let Some(waiting) = self.users.get(&user) else { return };
        if let Place::Asleep(until) = waiting.place {
            self.asleep.remove(&(until, user));
            return;
        }
        let Some(server) = self.servers.get_mut(&waiting.server) else { return };
        server.line.remove(&waiting.turn);
        if server.line.is_empty() {
            self.line.remove(&server.turn);
        }
    }

    /// Enters `user` in the tables of the greedy, or strikes him out before his requests change.
    fn count(&mut self, user: Fingerprint, enter: bool) {
        let Some(waiting) = self.users.get(&user) else { return };
        let Some((oldest, _)) = waiting.requests.first_key_value() else { return };
        let greed = (waiting.requests.len(), Reverse(*oldest), user);
        let server = self.servers.entry(waiting.server).or_default();
        if let Some(before) = server.greed() {
            self.greediest.remove(&(before, waiting.server));
        }
        if enter {
            server.users.insert(greed);
            server.parked += waiting.requests.len();
        } else {
            server.users.remove(&greed);
            server.parked -= waiting.requests.len();
        }
        if let Some(after) = server.greed() {
            self.greediest.insert((after, waiting.server));
        }
    }
}
