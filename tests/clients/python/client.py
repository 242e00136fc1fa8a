"""Clients that follow MSC3414 and stand on no Matrix SDK, driven by lines of JSON on standard input.

  { "id": 1, "client": "bob", "method": "join", "params": { "room_id": "!…" } }
  { "id": 1, "result": { … } }   or   { "id": 1, "error": "…" }

One process holds many clients; nothing is shared between them, and the calls of one client come one
after the other. The process ends when its input does. Only `ask` asks anybody for a key.
"""

import json
import sys
import threading
import time
import uuid

from device import Device, Identity, Wrong, cross_signed
from homeserver import Homeserver, Refused, segment

# What comes to the device and not to its rooms.
NO_ROOMS = json.dumps({"room": {"rooms": []}, "presence": {"types": []}})
POLL_MS = 1000
# How anything that came from elsewhere may turn out to be unfit.
UNFIT = (Wrong, Refused, ValueError, LookupError, TypeError, AttributeError)


class Client:
    """One device of a user of its own."""

    def __init__(self):
        self.lock = threading.Lock()
        self.heard = []
        self.complaints = []
        self.requests = {}

    def register(self, base_url, username, password, cross_sign):
        """Makes the account, and publishes the device with or without its owner's signature."""
        self.server = Homeserver(base_url)
        account = {"username": username, "password": password}
        made = self.server.call("POST", "register", {**account, "auth": {"type": "m.login.dummy"}})
        self.user_id, self.server.token = made["user_id"], made["access_token"]
        self.device = Device(self.user_id, made["device_id"])
        keys = {"device_keys": self.device.keys(), **self.device.fresh_keys()}
        self.server.call("POST", "keys/upload", keys)
        if cross_sign:
            self._cross_sign(password)
        self.since = self._sync(0)["next_batch"]
        return made

    def _cross_sign(self, password):
        identity = Identity(self.user_id)
        self._with_password("keys/device_signing/upload", identity.keys(), password)
        signed = {self.device.device_id: identity.signed(self.device.keys())}
        answer = self.server.call("POST", "keys/signatures/upload", {self.user_id: signed})
        if answer.get("failures"):
            raise Wrong(f"the homeserver refuses the signature: {answer['failures']}")

    def _with_password(self, path, body, password):
        """Sends what may need user-interactive authentication, and shows the password if it does."""
        try:
            return self.server.call("POST", path, body)
        except Refused as refused:
            if refused.status != 401 or "flows" not in refused.body:
                raise
            session = refused.body.get("session")
        user = {"type": "m.id.user", "user": self.user_id}
        auth = {"type": "m.login.password", "identifier": user, "password": password}
        return self.server.call("POST", path, {**body, "auth": {**auth, "session": session}})

    def join(self, room_id):
        return self.server.call("POST", f"join/{segment(room_id)}", {})

    def leave(self, room_id):
        return self.server.call("POST", f"rooms/{segment(room_id)}/leave", {})

    def name_event(self, room_id):
        """The room's encrypted name, as the server keeps it."""
        return self._state_event(room_id, "m.room.encrypted", "m.room.name:")

    def _state_event(self, room_id, kind, key):
        path = f"rooms/{segment(room_id)}/state/{segment(kind)}/{segment(key)}"
        event = self.server.call("GET", path, query={"format": "event"})
        return {**event, "room_id": room_id}

    def read(self, event):
        """Opens an encrypted state event with what the device holds, or says why it cannot."""
        self._listen(0)
        try:
            payload = self.device.open_state(event)
        except UNFIT as error:
            return {"failure": str(error)}
        content = payload["content"]
        return {"type": payload["type"], "content": content, "name": content.get("name")}

    def ask(self, event, users=None):
        """Asks for the session of an encrypted event: all devices of those with more power than
        most in its room, or of `users`, whom somebody outside the room has to name."""
        content, request_id = event["content"], uuid.uuid4().hex
        body = {
            "algorithm": content["algorithm"],
            "room_id": event["room_id"],
            "session_id": content["session_id"],
        }
        if "sender_key" in content:
            body["sender_key"] = content["sender_key"]
        asked = users or self._elevated(event["room_id"])
        self.requests[request_id] = asked
        self._send_request(request_id, {"action": "request", "body": body})
        return {"request_id": request_id, "asked": asked}

    def cancel(self, request_id):
        """Takes a request back."""
        self._send_request(request_id, {"action": "request_cancellation"})
        return {}

    def _send_request(self, request_id, content):
        content = {
            **content,
            "request_id": request_id,
            "requesting_device_id": self.device.device_id,
        }
        messages = {user: {"*": content} for user in self.requests[request_id]}
        path = f"sendToDevice/m.room_key_request/{uuid.uuid4().hex}"
        self.server.call("PUT", path, {"messages": messages})

    def _elevated(self, room_id):
        """MSC3414: those with larger-than-default power. Creators stand in no power levels."""
        levels = self._state_event(room_id, "m.room.power_levels", "")["content"]
        create = self._state_event(room_id, "m.room.create", "")
        default = levels.get("users_default", 0)
        users = {user for user, level in levels.get("users", {}).items() if level > default}
        if create["content"].get("room_version") == "12":
            users.add(create["sender"])
            users.update(create["content"].get("additional_creators", []))
        return sorted(users - {self.user_id})

    def wait_key(self, event, timeout):
        """Waits until the device holds the key of an event's session."""
        place = (event["room_id"], event["content"]["session_id"])
        self._wait(timeout, lambda: place in self.device.room_keys, f"the key of {place[1]}")
        return {"first_index": self.device.room_keys[place][1].first_known_index}

    def wait_withheld(self, event, timeout):
        """Waits until somebody says that he withholds an event's session; what he says."""
        session_id = event["content"]["session_id"]

        def refusal():
            for heard in self.heard:
                is_refusal = heard["type"] == "m.room_key.withheld"
                if is_refusal and heard["content"].get("session_id") == session_id:
                    return heard
            return None

        self._wait(timeout, refusal, f"a word about {session_id}")
        return refusal()

    def told(self):
        """Every to-device event so far in plain or opened, and what could not be opened."""
        self._listen(0)
        return {"heard": self.heard, "complaints": self.complaints}

    def _wait(self, timeout, holds, what):
        deadline = time.monotonic() + timeout / 1000
        while not holds():
            if time.monotonic() > deadline:
                raise Wrong(f"timeout: {what}; heard {self.heard}; complaints {self.complaints}")
            self._listen(POLL_MS)

    def _sync(self, timeout_ms, since=None):
        query = {"timeout": timeout_ms, "filter": NO_ROOMS}
        if since is not None:
            query["since"] = since
        return self.server.call("GET", "sync", query=query)

    def _listen(self, timeout_ms):
        answer = self._sync(timeout_ms, self.since)
        for event in answer.get("to_device", {}).get("events", []):
            try:
                self._take(event)
            except UNFIT as error:
                self.complaints.append(f"{event['type']} from {event['sender']}: {error}")
        self.since = answer["next_batch"]

    def _take(self, event):
        kind, sender, content = event["type"], event["sender"], event["content"]
        is_encrypted = kind == "m.room.encrypted"
        if is_encrypted:
            payload = self.device.open_olm(sender, content, self._device_by_key)
            kind, content = payload["type"], payload["content"]
        # A key that came in plain is nobody's.
        if is_encrypted and kind == "m.room_key":
            self.device.take_room_key(sender, content)
        self.heard.append(
            {"type": kind, "sender": sender, "encrypted": is_encrypted, "content": content}
        )

    def _device_by_key(self, user_id, curve25519):
        answer = self.server.call("POST", "keys/query", {"device_keys": {user_id: []}})
        for device_id, device in answer["device_keys"].get(user_id, {}).items():
            if device["keys"].get(f"curve25519:{device_id}") == curve25519:
                return cross_signed(answer, user_id, device_id)
        raise Wrong(f"{user_id} has no device with the key {curve25519}")


METHODS = {name for name in vars(Client) if not name.startswith("_")}


class Server:
    """Answers lines, each in a thread of its own."""

    def __init__(self):
        self.clients = {}
        self.output = threading.Lock()

    def serve(self, lines):
        self._print({"ready": True})
        for line in lines:
            request = json.loads(line)
            client = self.clients.setdefault(request["client"], Client())
            threading.Thread(target=self._answer, args=(client, request), daemon=True).start()

    def _answer(self, client, request):
        method = request["method"]
        try:
            if method not in METHODS:
                raise Wrong("no such method")
            with client.lock:
                result = getattr(client, method)(**(request.get("params") or {}))
            self._print({"id": request["id"], "result": result})
        except Exception as error:
            reason = f"{request['client']}.{method}: {type(error).__name__}: {error}"
            self._print({"id": request["id"], "error": reason})

    def _print(self, answer):
        with self.output:
            print(json.dumps(answer), flush=True)


Server().serve(sys.stdin)
