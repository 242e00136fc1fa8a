// A Chromium, and pages in it that note whatever a page should not do.

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import puppeteer from "puppeteer-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

export function fail(message) {
    throw new Error(message);
}

export function check(holds, message) {
    if (!holds) fail(message);
}

function isProgram(path) {
    try {
        accessSync(path, constants.X_OK);
        return true;
    } catch {
        return false;
    }
}

// The program that CHROMIUM names, by its path; else the first by one of its names on PATH.
function chromium() {
    if (process.env.CHROMIUM) return process.env.CHROMIUM;
    const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
    return NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find(isProgram);
}

export async function launch() {
    const executablePath = chromium();
    check(executablePath, "there is no Chromium on PATH: run tests/dashboard/setup.sh, or name one with CHROMIUM=/path/to/it");
    return puppeteer.launch({
        executablePath,
        headless: true,
        // Tests run as root in containers, where Chromium's own sandbox cannot be made.
        args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"],
    });
}

// A page in a context of its own. `page.faults` is what it did that it should not.
export async function visit(browser, base) {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    page.faults = [];
    page.on("request", (request) => {
        const url = request.url();
        if (!url.startsWith(base) && !url.startsWith("data:")) page.faults.push(`a request to ${url}`);
    });
    page.on("console", (message) => {
        // What the server answers to a refused request is looked at where it is asked for.
        if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
            page.faults.push(`the console says: ${message.text()}`);
        }
    });
    page.on("pageerror", (error) => page.faults.push(`an error: ${error.message}`));
    page.leave = () => context.close();
    return page;
}

export async function go(page, url, status = 200) {
    const answer = await page.goto(url, { waitUntil: "load" });
    check(answer.status() === status, `${url}: ${answer.status()} and not ${status}`);
    return answer;
}

// Does something that leads to another page, and waits for it.
export async function leads(page, act) {
    const [answer] = await Promise.all([page.waitForNavigation({ waitUntil: "load" }), act()]);
    return answer;
}

export async function text(page, selector = "main") {
    return page.$eval(selector, (element) => element.textContent);
}

// Logs in by the keyboard alone. An address has five tries at once, so most pages go on with one session.
export async function logIn(page, { base, token }) {
    await go(page, `${base}/dashboard/login`);
    // A browser gives what has `autofocus` the focus when it first draws the page, which may be after it was loaded.
    await page.waitForSelector("#token:focus").catch(() => fail("the token has not the focus on the login page"));
    await page.keyboard.type(token);
    const answer = await leads(page, () => page.keyboard.press("Enter"));
    check(
        new URL(page.url()).pathname === "/dashboard/",
        `after the login it is at ${page.url()}, which answers ${answer.status()}`,
    );
}

// Logs in, and says what a browser keeps of it.
export async function session(browser, given) {
    const page = await visit(browser, given.base);
    await logIn(page, given);
    const kept = await page.browserContext().cookies();
    await page.leave();
    return kept;
}

// Goes on with a session that is open already.
export async function letIn(page, { base, kept }) {
    await page.browserContext().setCookie(...kept);
    await go(page, `${base}/dashboard/`);
    check(new URL(page.url()).pathname === "/dashboard/", `with an open session it is at ${page.url()}`);
}
