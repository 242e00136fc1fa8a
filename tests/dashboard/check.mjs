// Looks at each page of a running keeper's dashboard in a real Chromium: light and dark, on a phone and on a desk, with
// JavaScript and without, by the keyboard, and from other sites. Leaves pictures. It is given, as JSON on standard input,
// `base` (the listener), `token`, `room`, `member`, `held` (who waits there for a word), `child` and `closed` (rooms of a
// space, of which the keeper is in one) and `pictures` (a folder).

import { mkdirSync } from "node:fs";
import { accessible, byKeyboard, fits } from "./accessibility.mjs";
import { crossSite, framed } from "./attacks.mjs";
import { check, fail, go, launch, leads, letIn, logIn, session, text, visit } from "./browser.mjs";

const WIDTHS = { phone: { width: 360, height: 740 }, desk: { width: 1360, height: 900 } };
const SCHEMES = ["light", "dark"];

const query = (page, fields) => `/dashboard/${page}?${new URLSearchParams(fields)}`;

const pagesOf = ({ room, member, held }) => ({
    overview: "/dashboard/",
    rooms: "/dashboard/rooms",
    "rooms-none": query("rooms", { find: "no room has this in its name" }),
    room: query("room", { id: room }),
    holds: "/dashboard/holds",
    spaces: "/dashboard/spaces",
    ledger: "/dashboard/ledger",
    "ledger-wrong": query("ledger", { room: "nonsense" }),
    commands: query("ledger", { of: "commands" }),
    "holds-done": query("holds", { done: "approve" }),
    why: "/dashboard/why",
    "why-told": query("why", { user: member, room }),
    "why-held": query("why", { user: held, room }),
    approve: query("confirm", { do: "approve", room, user: held }),
    rotate: query("confirm", { do: "rotate", room }),
});

async function each(page, what, { pictures }) {
    for (const scheme of SCHEMES) {
        await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
        for (const [width, size] of Object.entries(WIDTHS)) {
            await page.setViewport(size);
            const name = `${what}-${scheme}-${width}`;
            await fits(page, name);
            await accessible(page, name);
            await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
        }
    }
}

// Nothing is shown to whoever is not logged in.
async function withoutCredentials(browser, given) {
    const page = await visit(browser, given.base);
    for (const [what, path] of Object.entries(pagesOf(given))) {
        await go(page, given.base + path);
        check(new URL(page.url()).pathname === "/dashboard/login", `${what} leads to ${page.url()}`);
        const said = await text(page, "body");
        check(!said.includes(given.room) && !said.includes(given.held), `${what} shows something`);
    }
    await each(page, "login", given);
    await byKeyboard(page, "login");
    await page.type("#token", "not the token at all, but long enough");
    const answer = await leads(page, () => page.keyboard.press("Enter"));
    check(answer.status() === 401, `a wrong token was answered with ${answer.status()}`);
    await each(page, "login-wrong", given);
    check(page.faults.length === 0, page.faults.join("\n"));
    await page.leave();
}

async function everyPage(browser, given, javascript) {
    const page = await visit(browser, given.base);
    await page.setJavaScriptEnabled(javascript);
    await logIn(page, given);
    for (const [what, path] of Object.entries(pagesOf(given))) {
        await go(page, given.base + path);
        const title = await page.title();
        check(title.endsWith(" · Statekeeper"), `${what} is called ${title}`);
        check((await page.$$("script")).length === 0, `${what} has a script`);
        // axe is JavaScript itself. The page is the same one without it.
        if (javascript) await each(page, what, given);
        await page.setViewport(WIDTHS.desk);
        await byKeyboard(page, what);
        check(page.faults.length === 0, `${what}: ${page.faults.join("\n")}`);
    }
    await page.leave();
}

// A space shows what lies beneath it, and how far the keeper is with it.
async function spaces(browser, given) {
    const page = await visit(browser, given.base);
    await page.setJavaScriptEnabled(false);
    await letIn(page, given);
    await go(page, `${given.base}/dashboard/spaces`);
    const rows = await page.$$eval("tbody tr", (rows) => rows.map((row) => row.textContent));
    const [first, second] = rows;
    check(rows.length === 2 && first.includes(given.closed) && first.includes("invite"), `beneath the space are: ${rows}`);
    check(second.includes(given.child) && second.includes("kept"), `beneath the space are: ${rows}`);
    const said = await text(page, ".facts");
    check(said.includes("2 of 2, 100 %") && said.includes("1 of 2 rooms"), `of the space is said: ${said}`);
    await page.leave();
}

// The filters of a list, without JavaScript.
async function filters(browser, given) {
    const page = await visit(browser, given.base);
    await page.setJavaScriptEnabled(false);
    await letIn(page, given);
    await go(page, `${given.base}/dashboard/rooms`);
    check((await text(page)).includes(given.room), "the room is not in the list");
    await page.select("#status", "invited");
    await leads(page, () => page.click(".filters button"));
    check(!(await text(page)).includes(given.room), "the list is not filtered");
    await go(page, `${given.base}/dashboard/ledger`);
    check((await text(page)).includes(given.member), "the member is not in the ledger");
    await page.type("#user", given.held);
    await leads(page, () => page.click(".filters button"));
    const cells = await page.$$eval("tbody td:nth-of-type(2)", (cells) => cells.map((cell) => cell.textContent));
    check(cells.length > 0 && cells.every((cell) => cell.includes(given.held)), `the ledger is not filtered: ${cells}`);
    await page.leave();
}

// From the overview to the decision, by the keyboard alone and without JavaScript.
async function decides(browser, given) {
    const page = await visit(browser, given.base);
    await page.setJavaScriptEnabled(false);
    await letIn(page, given);
    check((await text(page)).includes("waits for your word"), "the overview does not say that somebody waits");
    const follow = async (selector) => {
        await page.focus(selector);
        return leads(page, () => page.keyboard.press("Enter"));
    };
    await follow(".headline a[href='/dashboard/holds']");
    await follow("a.button[href*='do=approve']");
    check((await text(page)).includes(given.held), "it is not said whom the decision is about");
    await follow(".decision button");
    const said = await text(page, "[role=status]");
    check(said.includes("Approved"), `after the decision it says: ${said}`);
    await go(page, `${given.base}/dashboard/ledger?of=commands`);
    const row = await page.$$eval("tbody tr", (rows) => rows.map((row) => row.textContent).find((row) => row.includes("approve")));
    check(row?.includes("dashboard") && row.includes("done"), `the ledger says: ${row}`);
    await follow(".who button");
    await go(page, `${given.base}/dashboard/`);
    check(new URL(page.url()).pathname === "/dashboard/login", "whoever has logged out is still in");
    await page.leave();
}

async function main() {
    let input = "";
    for await (const piece of process.stdin) input += piece;
    const given = JSON.parse(input);
    mkdirSync(given.pictures, { recursive: true });
    const browser = await launch();
    try {
        await withoutCredentials(browser, given);
        await everyPage(browser, given, true);
        await everyPage(browser, given, false);
        given.kept = await session(browser, given);
        await spaces(browser, given);
        await filters(browser, given);
        await crossSite(browser, given);
        await framed(browser, given);
        await decides(browser, given);
    } finally {
        await browser.close();
    }
    console.log("the dashboard is as it should be");
}

main().catch((error) => {
    console.error(error.stack ?? fail(error));
    process.exit(1);
});
