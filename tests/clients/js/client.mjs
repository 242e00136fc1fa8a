// Stock matrix-js-sdk clients, driven by lines of JSON on standard input.
//
//   { "id": 1, "client": "alice", "method": "join", "params": { "room_id": "!…" } }
//   { "id": 1, "result": { … } }   or   { "id": 1, "error": "…" }
//
// One process holds many clients, each with its own crypto store; nothing is shared between them.
// Times are milliseconds since the epoch. The process ends when its input does.

import "./polyfill.mjs";
import { createInterface } from "node:readline";

const sdk = await import("matrix-js-sdk");
const { LocalTrust, UserId } = await import("@matrix-org/matrix-sdk-crypto-wasm");
const { ClientEvent, RoomEvent, RoomStateEvent, MatrixEventEvent, MatrixEvent, SyncState } = sdk;

const now = () => performance.timeOrigin + performance.now();

/** Resolves with the first defined value of `look`, which is asked again at each of `events`. */
function observe(emitter, events, look, timeout, what) {
    return new Promise((resolve, reject) => {
        const done = (settle, value) => {
            clearTimeout(timer);
            for (const event of events) emitter.off(event, check);
            settle(value);
        };
        const check = () => {
            let value;
            try {
                value = look();
            } catch (error) {
                done(reject, error);
                return;
            }
            if (value !== undefined) done(resolve, value);
        };
        const timer = setTimeout(() => done(reject, new Error(`timeout: ${what()}`)), timeout);
        for (const event of events) emitter.on(event, check);
        check();
    });
}

const ROOM_EVENTS = [
    ClientEvent.Room,
    ClientEvent.Sync,
    RoomEvent.Name,
    RoomEvent.MyMembership,
    RoomEvent.Timeline,
    RoomEvent.Redaction,
    RoomStateEvent.Events,
    RoomStateEvent.Update,
    MatrixEventEvent.Decrypted,
    RoomStateEvent.Members,
];

class Client {
    async login(account) {
        this.account = account;
        this.toDevice = [];
        await this.#start();
        const { user_id, password, cross_sign } = account;
        if (cross_sign) {
            await this.mx.getCrypto().bootstrapCrossSigning({
                setupNewCrossSigning: true,
                authUploadDeviceSigningKeys: (request) =>
                    request({
                        type: "m.login.password",
                        identifier: { type: "m.id.user", user: user_id },
                        password,
                    }),
            });
        }
        return {};
    }

    /**
     * Starts the SDK. A `lasting` client keeps its keys, and what it has saved of the rooms, over a reload; another one
     * forgets everything.
     */
    async #start() {
        const { base_url, user_id, device_id, access_token, lasting } = this.account;
        if (lasting) await import("fake-indexeddb/auto");
        const store = lasting
            ? new sdk.IndexedDBStore({ indexedDB, dbName: `rooms-${device_id}-${this.cold ?? 0}` })
            : undefined;
        this.mx = sdk.createClient({
            baseUrl: base_url,
            userId: user_id,
            deviceId: device_id,
            accessToken: access_token,
            enableEncryptedStateEvents: true,
            timelineSupport: true,
            ...(store && { store }),
        });
        this.mx.on(ClientEvent.ReceivedToDeviceMessage, ({ message, encryptionInfo }) =>
            this.toDevice.push({ type: message.type, sender: message.sender, encrypted: encryptionInfo !== null }),
        );
        await store?.startup();
        await this.mx.initRustCrypto(
            lasting ? { cryptoDatabasePrefix: `crypto-${device_id}` } : { useIndexedDB: false },
        );
        await this.mx.startClient({ initialSyncLimit: 20, lazyLoadMembers: true, threadSupport: true });
        await observe(
            this.mx,
            [ClientEvent.Sync],
            () => (this.mx.getSyncState() === SyncState.Syncing ? true : undefined),
            30_000,
            () => "the first sync",
        );
    }

    /** Loads the page anew, with what was saved of the rooms or, `cold`, with the keys alone. */
    async reload({ cold }) {
        if (cold) this.cold = (this.cold ?? 0) + 1;
        else await this.mx.store.save(true);
        this.mx.stopClient();
        await this.#start();
        return {};
    }

    async logout() {
        this.mx.stopClient();
        await this.mx.logout(true);
        return {};
    }

    stop() {
        this.mx.stopClient();
        return {};
    }

    /** Signs another device of the same user, as a verification would. */
    async signDevice({ device_id }) {
        const crypto = this.mx.getCrypto();
        const user = this.mx.getUserId();
        await crypto.getUserDeviceInfo([user], true);
        // The answer to a query that was already under way may be older than the device.
        await retry(async () => {
            await crypto.getUserDeviceInfo([user], true);
            await crypto.crossSignDevice(device_id);
        });
        return { at: now() };
    }

    async createRoom({ body, encrypted }) {
        const { room_id } = await this.mx.createRoom(body);
        if (encrypted) await this.#encryptionKnown(room_id);
        return { room_id };
    }

    /** A client that does not know yet that a room is encrypted would send in plain. */
    async #encryptionKnown(roomId) {
        const known = await observe(
            this.mx,
            ROOM_EVENTS,
            () => (this.mx.getRoom(roomId)?.hasEncryptionStateEvent() ? true : undefined),
            20_000,
            () => `encryption of ${roomId}`,
        );
        await retry(async () => {
            if (!(await this.mx.getCrypto().isEncryptionEnabledInRoom(roomId))) throw new Error("not yet");
        });
        return known;
    }

    /** Invites, and hands over the key bundle that the SDK makes for an invitee. */
    async invite({ room_id, user_id }) {
        await this.mx.invite(room_id, user_id);
        return {};
    }

    async kick({ room_id, user_id }) {
        await this.mx.kick(room_id, user_id);
        return {};
    }

    async leave({ room_id }) {
        await this.mx.leave(room_id);
        return {};
    }

    async join({ room_id }) {
        const sent_at = now();
        await this.mx.joinRoom(room_id);
        return { sent_at, answered_at: now() };
    }

    /** Waits until this client knows that it is joined or, with another `membership`, invited. */
    async waitJoined({ room_id, membership = "join", timeout }) {
        return observe(
            this.mx,
            ROOM_EVENTS,
            () => (this.mx.getRoom(room_id)?.getMyMembership() === membership ? { at: now() } : undefined),
            timeout,
            () => `membership of ${room_id}`,
        );
    }

    /** Waits until this client knows that somebody else is in the room. */
    async waitMember({ room_id, user_id, timeout }) {
        return observe(
            this.mx,
            ROOM_EVENTS,
            () => (this.#state(room_id, "m.room.member", user_id)?.getContent().membership === "join" ? { at: now() } : undefined),
            timeout,
            () => `${user_id} in ${room_id}`,
        );
    }

    /** Sends state as the SDK does: under encryption where the room asks for it. */
    async sendState({ room_id, type, state_key, content }) {
        return this.mx.sendStateEvent(room_id, type, content, state_key ?? "");
    }

    /** Encrypts state of whatever type, also of one that the SDK would send in plain, and sends nothing. */
    async encryptState({ room_id, type, state_key, content }) {
        const event = new MatrixEvent({ room_id, type, state_key: state_key ?? "", content });
        await this.mx.getCrypto().encryptEvent(event, this.mx.getRoom(room_id));
        return { state_key: event.getWireStateKey(), content: event.getWireContent() };
    }

    /** Gives a user's devices no key from now on. */
    async shutOut({ user_id }) {
        const crypto = this.mx.getCrypto();
        await retry(async () => {
            await crypto.getUserDeviceInfo([user_id], true);
            const known = await crypto.olmMachine.getUserDevices(new UserId(user_id));
            const devices = known.devices();
            if (devices.length === 0) throw new Error(`no device of ${user_id} is known`);
            for (const device of devices) await device.setLocalTrust(LocalTrust.BlackListed);
        });
        return {};
    }

    async sendMessage({ room_id, body }) {
        await this.#encryptionKnown(room_id);
        return this.mx.sendTextMessage(room_id, body);
    }

    async redact({ room_id, event_id }) {
        return this.mx.redactEvent(room_id, event_id);
    }

    #state(roomId, type, key) {
        return this.mx.getRoom(roomId)?.currentState.getStateEvents(type, key ?? "") ?? null;
    }

    #shown(roomId) {
        const room = this.mx.getRoom(roomId);
        return {
            label: room?.name ?? null,
            name: this.#state(roomId, "m.room.name")?.getContent().name ?? null,
            topic: this.#state(roomId, "m.room.topic")?.getContent().topic ?? null,
            undecryptable: [...(room?.currentState.events.values() ?? [])]
                .flatMap((byKey) => [...byKey.values()])
                .filter((event) => event.isDecryptionFailure())
                .map((event) => event.getWireStateKey()),
        };
    }

    /** What the room list and the room's header show. */
    shown({ room_id }) {
        return this.#shown(room_id);
    }

    /** Waits until the room shows the name: `room.name` is what a room list prints. */
    async waitName({ room_id, name, timeout }) {
        return observe(
            this.mx,
            ROOM_EVENTS,
            () => (this.mx.getRoom(room_id)?.name === name ? { at: now() } : undefined),
            timeout,
            () => `name ${JSON.stringify(name)}; shown: ${JSON.stringify(this.#shown(room_id))}`,
        );
    }

    async waitTopic({ room_id, topic, timeout }) {
        return observe(
            this.mx,
            ROOM_EVENTS,
            () => (this.#shown(room_id).topic === topic ? { at: now() } : undefined),
            timeout,
            () => `topic ${JSON.stringify(topic)}; shown: ${JSON.stringify(this.#shown(room_id))}`,
        );
    }

    /** The decrypted content of a piece of state as this client holds it, or null. */
    stateContent({ room_id, type, state_key }) {
        const event = this.#state(room_id, type, state_key);
        return { content: event && !event.isDecryptionFailure() ? event.getContent() : null };
    }

    async waitState({ room_id, type, state_key, content, timeout }) {
        const wanted = JSON.stringify(content);
        const held = () => JSON.stringify(this.stateContent({ room_id, type, state_key }).content);
        return observe(
            this.mx,
            ROOM_EVENTS,
            () => (held() === wanted ? { at: now() } : undefined),
            timeout,
            () => `${type} = ${wanted}; held: ${held()}`,
        );
    }

    #highestPower(roomId) {
        const levels = (this.mx.getRoom(roomId)?.getMembers() ?? []).map((member) => member.powerLevel);
        return Math.max(0, ...levels.filter(Number.isFinite));
    }

    /** The highest power that a member has by what this client goes by; creators stand above all. */
    highestPower({ room_id }) {
        return { level: this.#highestPower(room_id) };
    }

    async waitHighestPower({ room_id, level, timeout }) {
        return observe(
            this.mx,
            ROOM_EVENTS,
            () => (this.#highestPower(room_id) === level ? { at: now() } : undefined),
            timeout,
            () => `the highest power ${level}; held: ${this.#highestPower(room_id)}`,
        );
    }

    async waitMessage({ room_id, body, timeout }) {
        return observe(
            this.mx,
            ROOM_EVENTS,
            () =>
                this.mx
                    .getRoom(room_id)
                    ?.getLiveTimeline()
                    .getEvents()
                    .some((event) => event.getContent().body === body && !event.isDecryptionFailure())
                    ? { at: now() }
                    : undefined,
            timeout,
            () => `message ${JSON.stringify(body)}`,
        );
    }

    /** Waits for a notice that has all these parts in it. */
    async waitNotice({ room_id, parts, timeout }) {
        const has = (event) => {
            const { msgtype, body } = event.getContent();
            return msgtype === "m.notice" && parts.every((part) => body?.includes(part));
        };
        return observe(
            this.mx,
            ROOM_EVENTS,
            () =>
                this.mx.getRoom(room_id)?.getLiveTimeline().getEvents().some(has)
                    ? { at: now() }
                    : undefined,
            timeout,
            () => `a notice with ${JSON.stringify(parts)}`,
        );
    }

    /** Hands an event, as the server keeps it, to the SDK for decryption. */
    async decrypt({ event }) {
        const handed = new MatrixEvent(event);
        await handed.attemptDecryption(this.mx.getCrypto());
        if (handed.isDecryptionFailure()) return { failure: handed.decryptionFailureReason };
        return { type: handed.getType(), content: handed.getContent() };
    }

    /** Every to-device message that has reached this device: type, sender, whether it was encrypted. */
    toDeviceMessages() {
        return { messages: this.toDevice };
    }
}

async function retry(attempt, tries = 100) {
    for (let left = tries; ; left--) {
        try {
            return await attempt();
        } catch (error) {
            if (left <= 1) throw error;
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
    }
}

const clients = new Map();

async function answer({ client, method, params }) {
    if (!clients.has(client)) clients.set(client, new Client());
    const target = clients.get(client);
    if (!Object.hasOwn(Client.prototype, method)) throw new Error(`no method ${method}`);
    return target[method](params ?? {});
}

process.on("unhandledRejection", (error) => process.stderr.write(`unhandled: ${error?.stack ?? error}\n`));

const input = createInterface({ input: process.stdin });
input.on("line", async (line) => {
    const request = JSON.parse(line);
    let reply;
    try {
        reply = { id: request.id, result: (await answer(request)) ?? null };
    } catch (error) {
        reply = { id: request.id, error: `${request.client}.${request.method}: ${error?.message ?? error}` };
    }
    process.stdout.write(`${JSON.stringify(reply)}\n`);
});
input.on("close", () => process.exit(0));
process.stdout.write('{"ready":true}\n');
