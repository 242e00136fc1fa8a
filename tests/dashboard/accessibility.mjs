// Whether everybody can use a page: axe-core's rules, the width of a phone, and the keyboard.

import axe from "axe-core";
import { check } from "./browser.mjs";

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

export async function accessible(page, what) {
    await page.evaluate(axe.source);
    const found = await page.evaluate((tags) => axe.run(document, { runOnly: tags }), RULES);
    check(found.passes.length > 10, `${what}: axe looked at next to nothing`);
    const told = found.violations.flatMap((rule) =>
        rule.nodes.map((node) => `${rule.id}: ${node.html}\n    ${node.failureSummary}`));
    check(told.length === 0, `${what} is not accessible:\n  ${told.join("\n  ")}`);
}

export async function fits(page, what) {
    const wide = await page.evaluate(() => ({
        page: document.documentElement.scrollWidth,
        window: document.documentElement.clientWidth,
        spilt: [...document.querySelectorAll("td, tbody th, dd")]
            .filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
            .map((cell) => cell.textContent),
    }));
    check(wide.page <= wide.window, `${what}: ${wide.page} pixels wide, in a window of ${wide.window}`);
    check(wide.spilt.length === 0, `${what}: wider than its place is: ${wide.spilt.join(" | ")}`);
}

// Goes through the page with the tabulator: it reaches everything, and shows where it is.
export async function byKeyboard(page, what) {
    const wanted = await page.evaluate(() => {
        document.activeElement?.blur();
        const all = document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']");
        const seen = [...all].filter((element) => element.getClientRects().length > 0);
        seen.forEach((element, index) => element.setAttribute("data-stop", index));
        return seen.length;
    });
    check(wanted > 0, `${what}: nothing can be reached`);
    const reached = [];
    for (let step = 0; step < wanted + 2; step += 1) {
        await page.keyboard.press("Tab");
        const at = await page.evaluate(() => {
            const element = document.activeElement;
            const style = getComputedStyle(element);
            return {
                stop: element.getAttribute("data-stop"),
                html: element.outerHTML.slice(0, 120),
                shown: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
            };
        });
        if (at.stop === null) continue;
        check(at.shown, `${what}: the focus cannot be seen on ${at.html}`);
        reached.push(Number(at.stop));
    }
    const missing = [...Array(wanted).keys()].filter((stop) => !reached.includes(stop));
    check(missing.length === 0, `${what}: the keyboard does not reach ${missing} of ${wanted}`);
    const order = reached.slice(0, wanted);
    // Where the focus is at first it goes on from, and comes round to the beginning once.
    const turns = order.filter((stop, index) => index > 0 && stop < order[index - 1]);
    check(turns.length <= 1, `${what}: the order is ${order}`);
}
