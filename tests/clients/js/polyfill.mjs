// matrix-js-sdk is written for browsers and Node 22. What Node 20 lacks of that is added here.

Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
    return { promise, resolve, reject };
};

const has = (other) => (typeof other.has === "function" ? other : new Set(other));
const keys = (other) => (typeof other.keys === "function" ? [...other.keys()] : [...other]);

const setMethods = {
    union: (a, b) => new Set([...a, ...keys(b)]),
    intersection: (a, b) => new Set([...a].filter((value) => has(b).has(value))),
    difference: (a, b) => new Set([...a].filter((value) => !has(b).has(value))),
    symmetricDifference: (a, b) =>
        new Set([...[...a].filter((v) => !has(b).has(v)), ...keys(b).filter((v) => !a.has(v))]),
    isSubsetOf: (a, b) => [...a].every((value) => has(b).has(value)),
    isSupersetOf: (a, b) => keys(b).every((value) => a.has(value)),
    isDisjointFrom: (a, b) => [...a].every((value) => !has(b).has(value)),
};
for (const [name, method] of Object.entries(setMethods)) {
    Set.prototype[name] ??= function (other) {
        return method(this, other);
    };
}

// Standard output carries the answers, so whatever the SDK logs goes to standard error.
const wanted = process.env.JS_CLIENT_LOG ? () => true : (level) => level === "warn" || level === "error";
for (const level of ["trace", "debug", "log", "info", "warn", "error"]) {
    console[level] = (...args) => {
        if (wanted(level)) process.stderr.write(`${level} ${args.map(String).join(" ")}\n`);
    };
}
