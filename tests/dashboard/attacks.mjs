// What other sites' pages must not be able to do.

import { createServer } from "node:http";
import { check, go, leads, letIn, text, visit } from "./browser.mjs";

// Pages of another site: what is at `path` is answered with `pages[path]`.
export async function elsewhere(pages) {
    const server = createServer((request, answer) => {
        answer.setHeader("content-type", "text/html");
        answer.end(pages[request.url] ?? "");
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    return { port: server.address().port, close: () => server.close() };
}

const hidden = (fields) =>
    Object.entries(fields).map(([name, value]) => `<input type="hidden" name="${name}" value="${value}">`).join("");

// A form of another origin, or of another site, posts an approval; even with the right token of the session.
export async function crossSite(browser, given) {
    const { base, room, held } = given;
    const page = await visit(browser, base);
    await letIn(page, given);
    const confirm = `${base}/dashboard/confirm?${new URLSearchParams({ do: "approve", room, user: held })}`;
    await go(page, confirm);
    const guard = await page.$eval("input[name=guard]", (field) => field.value);
    const form = `<form method="post" action="${base}/dashboard/command">
        ${hidden({ do: "approve", room, user: held, guard })}<button>Win a prize</button></form>`;
    const site = await elsewhere({ "/": form });
    // The same host at another port is the same site and another origin: the cookie is sent along.
    for (const [host, status] of [["127.0.0.1", 403], ["localhost", 200]]) {
        await page.goto(`http://${host}:${site.port}/`);
        const answer = await leads(page, () => page.click("button"));
        check(answer.status() === status, `a form of ${host} was answered with ${answer.status()}`);
        const said = await text(page);
        check(/Refused|Log in/.test(said), `a form of ${host} was answered: ${said}`);
        await go(page, `${base}/dashboard/holds`);
        check((await text(page)).includes(held), `a form of ${host} approved somebody`);
    }
    site.close();
    await page.leave();
}

// No page shows in another one's frame; one that does not forbid it does.
export async function framed(browser, given) {
    const { base } = given;
    const page = await visit(browser, base);
    await letIn(page, given);
    const paths = ["/dashboard/", "/dashboard/login", "/dashboard/holds"];
    const frames = paths.map((path) => `<iframe src="${base}${path}"></iframe>`).join("");
    const told = "Statekeeper, as somebody forged it";
    const site = await elsewhere({ "/": `${frames}<iframe src="/forged"></iframe>`, "/forged": `<p>${told}</p>` });
    for (const host of ["127.0.0.1", "localhost"]) {
        await page.goto(`http://${host}:${site.port}/`, { waitUntil: "networkidle0" });
        const inner = page.frames().filter((frame) => frame !== page.mainFrame());
        check(inner.length === paths.length + 1, `there are ${inner.length} frames`);
        const shown = await Promise.all(inner.map((frame) =>
            frame.evaluate(() => document.body?.textContent ?? "").catch(() => "")));
        const seen = shown.filter((text) => /Statekeeper|Log in/.test(text));
        check(seen.length === 1 && seen[0] === told, `in frames of ${host} there shows: ${seen.join(" | ")}`);
    }
    site.close();
    await page.leave();
}
