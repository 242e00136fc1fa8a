//! The dashboard over HTTP, with a store of its own: who gets in, what is done for whom, and what a browser is told.

mod lists;

use std::{net::SocketAddr, sync::Arc};

use http::{Method, Request};
use ruma::{RoomId, UserId, event_id, owned_user_id, room_id, user_id};
use tokio::{net::TcpListener, sync::Notify};

use super::*;
use crate::{
    appservice::testing::{Answer, send},
    config::Config,
    keeper::{operator::Parts, rule_book::RuleBook},
    policy::{HoldReason, Word},
    state::Membership,
    store::{CommandsFilter, MemberRow, RoomRow, Store, commands, people, places, rooms},
};

const TOKEN: &str = "a token of the dashboard's own";
const WITH_TOKEN: &str = "dashboard: { token: \"a token of the dashboard's own\" }";
const WITH_PROXY: &str = "trusted_proxies: [\"127.0.0.1\"]\n  dashboard: { user_header: X-Forwarded-User, \
                          proxy_secret: \"a secret of the proxy's own\" }";
/// Every page that can be gone to.
const PAGES: [&str; 8] = [
    "",
    "rooms",
    "room?id=!tea:localhost",
    "holds",
    "spaces",
    "ledger",
    "ledger?of=commands",
    "confirm?do=approve&room=!tea:localhost&user=@bob:localhost",
];

fn tea() -> &'static RoomId {
    room_id!("!tea:localhost")
}

fn bob() -> &'static UserId {
    user_id!("@bob:localhost")
}

/// A dashboard that listens, with a room in which Bob waits for somebody's word.
struct Site {
    address: SocketAddr,
    store: Store,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn with(admin: &str) -> Self {
        let yaml = format!(
            "homeserver: {{ address: \"http://127.0.0.1:8008\", domain: localhost }}\n\
             appservice: {{ listen: \"127.0.0.1:29330\", address: \"http://127.0.0.1:29330\", \
             registration: r.yaml, bot: {{ localpart: keeper }} }}\n\
             store: {{ passphrase: right }}\nadmin:\n  {admin}\n"
        );
        let config = Config::from_yaml_for_test(&yaml).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.db");
        let store = Store::open(&path, &"right".into()).await.unwrap();
        fill(&store).await;
        let (metrics, readiness) = (Metrics::new().unwrap(), Readiness::new());
        let dashboard = Dashboard::new(&config.admin, metrics.clone(), readiness.clone()).unwrap();
        if let Some(dashboard) = &dashboard {
            dashboard.begin(Operator::new(Parts {
                store: store.clone(),
                readiness: readiness.clone(),
                rules: Arc::new(RuleBook::new(&config)),
                promised: Arc::new(Notify::new()),
                keeper: owned_user_id!("@keeper:localhost"),
                homeserver: "http://127.0.0.1:8008".to_owned(),
            }));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ever = std::future::pending();
        tokio::spawn(crate::admin::serve(listener, metrics, readiness, dashboard, ever));
        Self { address, store, _folder: folder }
    }

    async fn open() -> Self {
        Self::with(WITH_TOKEN).await
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn send(
        &self,
        method: Method,
        page: &str,
        headers: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(format!("{}/dashboard/{page}", self.origin()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(request.body(fields::query(fields)).unwrap()).await
    }

    async fn get(&self, page: &str, cookie: &str) -> Answer {
        self.send(Method::GET, page, &[("cookie", cookie)], &[]).await
    }

    async fn post(&self, page: &str, cookie: &str, fields: &[(&str, &str)]) -> Answer {
        let headers = [("cookie", cookie), ("origin", &self.origin())];
        self.send(Method::POST, page, &headers, fields).await
    }

    /// Tries a token.
    async fn try_token(&self, token: &str) -> Answer {
        self.post("login", "", &[("token", token)]).await
    }

    /// Logs in: the cookie.
    async fn log_in(&self) -> String {
        let answer = self.try_token(TOKEN).await;
        assert_eq!((answer.status.as_u16(), location(&answer)), (303, ROOT), "{answer:?}");
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// The token of the session's forms.
    async fn guard(&self, cookie: &str) -> String {
        guard_of(&self.get("", cookie).await.body)
    }

    async fn word_about_bob(&self) -> Option<Word> {
        let db = &mut *self.store.read().await.unwrap();
        people::People::of_room(db, tea(), None).await.unwrap().word(bob())
    }

    /// Who commanded what, and what came of it.
    async fn commands(&self, verb: &str) -> Vec<(String, String)> {
        let db = &mut *self.store.read().await.unwrap();
        let rows = commands::of_filter(db, &CommandsFilter::default()).await.unwrap();
        let rows = rows.into_iter().filter(|row| row.verb == verb);
        rows.map(|row| (row.actor, row.outcome)).collect()
    }
}

async fn fill(store: &Store) {
    let mut db = store.begin().await.unwrap();
    let room = RoomRow {
        loaded: true,
        state_encrypted: true,
        elevated: true,
        ..RoomRow::new(tea().to_owned(), Membership::Join)
    };
    rooms::put(&mut db, &room).await.unwrap();
    let member = MemberRow {
        user_id: bob().to_owned(),
        membership: Membership::Join,
        since: 1,
        arrived_at: 1,
        tick: 1,
        inviter: None,
    };
    rooms::put_member(&mut db, tea(), &member).await.unwrap();
    people::hold(&mut db, tea(), bob(), HoldReason::AwaitsApproval, 1).await.unwrap();
    db.commit().await.unwrap();
}

fn location(answer: &Answer) -> &str {
    answer.headers.get("location").map_or("", |to| to.to_str().unwrap())
}

fn guard_of(page: &str) -> String {
    let (_, after) = page.split_once("name=\"guard\" value=\"").expect(page);
    after.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn there_is_no_dashboard_unless_it_is_configured() {
    let site = Site::with("listen: \"127.0.0.1:1\"").await;
    for page in ["", "login", "style.css", "rooms"] {
        assert_eq!(site.get(page, "").await.status, 404, "{page}");
    }
}

#[tokio::test]
async fn nothing_is_shown_and_nothing_is_done_without_credentials() {
    let site = Site::open().await;
    for cookie in ["", "statekeeper_dashboard=guessed", "statekeeper_dashboard="] {
        for page in PAGES.into_iter().chain(["no-such-page", "why"]) {
            let answer = site.get(page, cookie).await;
            assert_eq!(answer.status, 303, "{page}");
            assert!(location(&answer).starts_with("/dashboard/login"), "{answer:?}");
            assert_eq!(answer.body, "", "{page}");
        }
        let fields = [("do", "approve"), ("room", "!tea:localhost"), ("user", "@bob:localhost")];
        assert_eq!(site.post("command", cookie, &fields).await.status, 303);
    }
    assert_eq!(site.word_about_bob().await, None);
    assert_eq!(site.commands("approve").await, []);
}

#[tokio::test]
async fn whoever_has_the_token_sees_every_page() {
    let site = Site::open().await;
    let cookie = site.log_in().await;
    for page in PAGES {
        let answer = site.get(page, &cookie).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.body);
        assert!(answer.content_type.starts_with("text/html"), "{page}");
        assert!(!answer.body.contains(TOKEN));
    }
    assert!(site.get("holds", &cookie).await.body.contains("@bob:localhost"));
    assert_eq!(site.get("no-such-page", &cookie).await.status, 404);
    assert_eq!(site.get("room?id=!other:localhost", &cookie).await.status, 404);
    assert_eq!(site.get("room?id=nonsense", &cookie).await.status, 404);
    let why = site.get("why?user=@bob:localhost&room=!tea:localhost", &cookie).await;
    assert_eq!(why.status, 503, "the keeper has no device yet: {}", why.body);
    assert_eq!(site.commands("holds").await, [("dashboard".to_owned(), "done".to_owned())]);
}

#[tokio::test]
async fn the_cookie_is_for_this_site_alone_and_for_no_script() {
    let site = Site::open().await;
    let answer = site.try_token(TOKEN).await;
    let cookie = answer.headers["set-cookie"].to_str().unwrap();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/dashboard"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "it came over plain HTTP: {cookie}");
    let site = Site::with(&format!("trusted_proxies: [\"127.0.0.1\"]\n  {WITH_TOKEN}")).await;
    let origin = "https://ops.example";
    let headers =
        [("origin", origin), ("x-forwarded-host", "ops.example"), ("x-forwarded-proto", "https")];
    let answer = site.send(Method::POST, "login", &headers, &[("token", TOKEN)]).await;
    assert!(answer.headers["set-cookie"].to_str().unwrap().contains("; Secure"), "{answer:?}");
}

#[tokio::test]
async fn a_wrong_token_lets_nobody_in_and_cannot_be_tried_for_long() {
    let site = Site::open().await;
    for token in ["", "wrong", &TOKEN[1..], &TOKEN.to_uppercase()] {
        let answer = site.try_token(token).await;
        assert_eq!(answer.status, 401, "{token}");
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    let cookie = site.log_in().await;
    let answer = site.try_token(TOKEN).await;
    assert_eq!(answer.status, 429, "even with the right one");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=11).contains(&wait), "{wait}");
    assert_eq!(site.get("", &cookie).await.status, 200, "who is in stays in");
}

#[tokio::test]
async fn a_login_from_another_sites_page_is_refused() {
    let site = Site::open().await;
    for headers in [vec![("origin", "http://evil.example")], vec![("origin", "null")], vec![]] {
        let answer = site.send(Method::POST, "login", &headers, &[("token", TOKEN)]).await;
        assert_eq!(answer.status, 403, "{headers:?}");
        assert!(!answer.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn a_hold_is_approved_by_its_own_form_alone_and_the_ledger_has_who_did_it() {
    let site = Site::open().await;
    let cookie = site.log_in().await;
    let guard = site.guard(&cookie).await;
    let origin = site.origin();
    let about = [("do", "approve"), ("room", "!tea:localhost"), ("user", "@bob:localhost")];
    let with = |guard: &'static str| [&about[..], &[("guard", guard)]].concat();
    for (headers, fields) in [
        (vec![("origin", origin.as_str())], about.to_vec()),
        (vec![("origin", origin.as_str())], with("")),
        (vec![("origin", origin.as_str())], with("guessed")),
        (vec![], [&about[..], &[("guard", guard.as_str())]].concat()),
        (vec![("origin", "null")], [&about[..], &[("guard", guard.as_str())]].concat()),
        (
            vec![("origin", "http://evil.example")],
            [&about[..], &[("guard", guard.as_str())]].concat(),
        ),
        (
            vec![("origin", origin.as_str()), ("sec-fetch-site", "same-site")],
            [&about[..], &[("guard", guard.as_str())]].concat(),
        ),
    ] {
        let headers = [&headers[..], &[("cookie", cookie.as_str())]].concat();
        let answer = site.send(Method::POST, "command", &headers, &fields).await;
        assert_eq!(answer.status, 403, "{headers:?} {fields:?}");
    }
    // Another session's token is not this one's.
    let other = site.guard(&site.log_in().await).await;
    let fields = [&about[..], &[("guard", other.as_str())]].concat();
    assert_eq!(site.post("command", &cookie, &fields).await.status, 403);
    // Nothing is done by looking.
    let looked = site.get(&format!("command?{}", fields::query(&fields)), &cookie).await;
    assert_eq!(looked.status, 405);
    assert_eq!((site.word_about_bob().await, site.commands("approve").await), (None, vec![]));

    let fields = [&about[..], &[("guard", guard.as_str())]].concat();
    let answer = site.post("command", &cookie, &fields).await;
    assert_eq!((answer.status.as_u16(), location(&answer)), (303, "/dashboard/holds?done=approve"));
    assert_eq!(site.word_about_bob().await, Some(Word::Approved));
    assert_eq!(site.commands("approve").await, [("dashboard".to_owned(), "done".to_owned())]);
    assert!(site.get("holds?done=approve", &cookie).await.body.contains("Approved."));
}

#[tokio::test]
async fn what_the_keeper_refuses_is_said_and_stands_in_the_ledger() {
    let site = Site::open().await;
    let cookie = site.log_in().await;
    let guard = site.guard(&cookie).await;
    let stranger = [
        ("do", "approve"),
        ("room", "!tea:localhost"),
        ("user", "@eve:localhost"),
        ("guard", &*guard),
    ];
    let answer = site.post("command", &cookie, &stranger).await;
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("neither joined to nor invited"), "{}", answer.body);
    let refused = ("dashboard".to_owned(), "refused:not_a_member".to_owned());
    assert_eq!(site.commands("approve").await, [refused]);
    let nobody = [("do", "obey"), ("guard", &*guard)];
    assert_eq!(site.post("command", &cookie, &nobody).await.status, 409);
}

#[tokio::test]
async fn whoever_logs_out_is_out() {
    let site = Site::open().await;
    let cookie = site.log_in().await;
    let guard = site.guard(&cookie).await;
    assert_eq!(site.post("logout", &cookie, &[]).await.status, 403, "not by another site");
    let answer = site.post("logout", &cookie, &[("guard", &guard)]).await;
    assert!(answer.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    let answer = site.get("", &cookie).await;
    assert_eq!((answer.status.as_u16(), location(&answer)), (303, "/dashboard/login?ended=1"));
}

#[tokio::test]
async fn a_session_that_has_ended_shows_nothing_more() {
    for bound in ["session_lifetime: 1ms", "session_idle: 1ms"] {
        let dashboard = format!("dashboard: {{ token: \"{TOKEN}\", {bound} }}");
        let site = Site::with(&dashboard).await;
        let cookie = site.log_in().await;
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(2) {
            tokio::task::yield_now().await;
        }
        assert_eq!(location(&site.get("", &cookie).await), "/dashboard/login?ended=1", "{bound}");
    }
}

#[tokio::test]
async fn every_answer_forbids_frames_scripts_and_other_hosts() {
    let site = Site::open().await;
    let cookie = site.log_in().await;
    let pages =
        PAGES.into_iter().chain(["login", "style.css", "icon.svg", "no-such-page", "command"]);
    for page in pages {
        for cookie in ["", &cookie] {
            let answer = site.get(page, cookie).await;
            let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
            let policy = header("content-security-policy");
            for part in [
                "default-src 'none'",
                "frame-ancestors 'none'",
                "form-action 'self'",
                "base-uri 'none'",
            ] {
                assert!(policy.contains(part), "{page}: {policy}");
            }
            assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
            assert_eq!(header("x-frame-options"), "DENY");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("referrer-policy"), "same-origin");
            assert_eq!(header("cache-control"), "no-store");
            assert!(!answer.body.contains("<script") && !answer.body.contains("style="), "{page}");
            // Within a page all addresses are this site's own.
            for begun in ["src=\"http", "href=\"http", "href=\"//", "url(\"http", "@import"] {
                assert!(!answer.body.contains(begun), "{page}: {begun}");
            }
        }
    }
}

#[tokio::test]
async fn what_strangers_chose_is_shown_as_text_and_does_nothing() {
    let site = Site::open().await;
    let wild = "#<img src=x onerror=alert(1)>\u{202e}\"'&:localhost";
    let mut db = site.store.begin().await.unwrap();
    places::put_alias(&mut db, tea(), Some(wild), event_id!("$alias")).await.unwrap();
    db.commit().await.unwrap();
    let cookie = site.log_in().await;
    for page in ["rooms", "room?id=!tea:localhost"] {
        let body = site.get(page, &cookie).await.body;
        assert!(body.contains("#&lt;img src=x onerror=alert(1)&gt;\\u{202e}&quot;"), "{body}");
        assert!(!body.contains("<img") && !body.contains('\u{202e}'), "{page}");
    }
    let query = fields::query(&[("find", "\"><script>alert(1)</script>"), ("status", "\"><b>")]);
    let body = site.get(&format!("rooms?{query}"), &cookie).await.body;
    assert!(body.contains("value=\"&quot;&gt;&lt;script&gt;"), "{body}");
    assert!(!body.contains("<script") && !body.contains("<b>"));
}

#[tokio::test]
async fn a_proxys_user_is_let_in_by_its_secret_alone_and_named_in_the_ledger() {
    let site = Site::with(WITH_PROXY).await;
    assert_eq!(site.get("", "").await.status, 401);
    assert_eq!(site.get("login", "").await.status, 404, "there is no token");
    let user = ("x-forwarded-user", "eve");
    let secret = ("x-statekeeper-proxy-secret", "a secret of the proxy's own");
    let page = site.send(Method::GET, "holds", &[user, secret], &[]).await;
    assert_eq!(page.status, 200);
    let page = site
        .send(
            Method::GET,
            "confirm?do=deny&room=!tea:localhost&user=@bob:localhost",
            &[user, secret],
            &[],
        )
        .await;
    let guard = guard_of(&page.body);
    let fields = [
        ("do", "deny"),
        ("room", "!tea:localhost"),
        ("user", "@bob:localhost"),
        ("guard", &*guard),
    ];
    let origin = site.origin();
    let ours = ("origin", origin.as_str());
    let other = [("x-forwarded-user", "mallory"), secret, ours];
    assert_eq!(site.send(Method::POST, "command", &other, &fields).await.status, 403);
    let cross = [user, secret, ("origin", "http://evil.example")];
    assert_eq!(site.send(Method::POST, "command", &cross, &fields).await.status, 403);
    assert_eq!(site.word_about_bob().await, None);
    assert_eq!(
        site.send(Method::POST, "command", &[user, secret, ours], &fields).await.status,
        303
    );
    assert_eq!(site.word_about_bob().await, Some(Word::Denied));
    assert_eq!(site.commands("deny").await, [("dashboard:eve".to_owned(), "done".to_owned())]);
}

#[tokio::test]
async fn guesses_at_the_proxys_secret_are_counted_where_they_come_from_and_shut_nobody_out() {
    let site =
        Site::with(&WITH_PROXY.replace("{ user", &format!("{{ token: \"{TOKEN}\", user"))).await;
    let user = ("x-forwarded-user", "eve");
    let mut answers = Vec::new();
    for guess in 0..8 {
        let secret = ("x-statekeeper-proxy-secret", &*format!("a guess, the {guess}th of many"));
        // An address that is made up makes no other guesser of him.
        let from = ("x-forwarded-for", &*format!("192.0.2.{guess}"));
        let answer = site.send(Method::GET, "", &[user, secret, from], &[]).await;
        answers.push(answer.status.as_u16());
    }
    assert_eq!(answers, [401, 401, 401, 401, 401, 429, 429, 429]);
    // The proxy's own requests, and whoever logs in by a tunnel, come from the same address.
    let right = ("x-statekeeper-proxy-secret", "a secret of the proxy's own");
    assert_eq!(site.send(Method::GET, "", &[user, right], &[]).await.status, 200);
    site.log_in().await;
}

#[tokio::test]
async fn an_address_that_is_made_up_uses_up_nobody_elses_tries() {
    let site =
        Site::with(&WITH_PROXY.replace("{ user", &format!("{{ token: \"{TOKEN}\", user"))).await;
    let (origin, far) = (site.origin(), ("x-forwarded-for", "192.0.2.1"));
    let from_far = |more: &[(&'static str, &'static str)]| [&[far], more].concat();
    let mut tries = Vec::new();
    for _ in 0..6 {
        let headers = [&from_far(&[])[..], &[("origin", &*origin)]].concat();
        tries.push(site.send(Method::POST, "login", &headers, &[("token", "wrong")]).await);
    }
    assert_eq!(tries.last().unwrap().status, 429);
    let proved = from_far(&[("x-statekeeper-proxy-secret", "a secret of the proxy's own")]);
    let headers = [&proved[..], &[("origin", &*origin)]].concat();
    let answer = site.send(Method::POST, "login", &headers, &[("token", TOKEN)]).await;
    assert_eq!(answer.status, 303, "whoever is at that address has five tries of his own");
}

#[tokio::test]
async fn a_proxys_words_are_nothing_from_elsewhere() {
    let elsewhere = WITH_PROXY.replace("127.0.0.1", "192.0.2.1");
    let site = Site::with(&elsewhere).await;
    let headers = [
        ("x-forwarded-user", "eve"),
        ("x-statekeeper-proxy-secret", "a secret of the proxy's own"),
    ];
    assert_eq!(site.send(Method::GET, "", &headers, &[]).await.status, 401);
}
