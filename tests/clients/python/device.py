"""An Olm device and what it was given, on vodozemac's Python bindings and no Matrix SDK.

Each check is one that the specification asks of a client; whatever fails one is kept as a complaint
and gives nothing.
"""

import base64
import json

import vodozemac

OLM = "m.olm.v1.curve25519-aes-sha2"
MEGOLM = "m.megolm.v1.aes-sha2"
ONE_TIME_KEYS = 20


class Wrong(Exception):
    """Something that a client has to turn down, with the reason."""


def require(holds, reason):
    if not holds:
        raise Wrong(reason)


def canonical(value):
    """The bytes that a signature covers: canonical JSON without `signatures` and `unsigned`."""
    bare = {key: held for key, held in value.items() if key not in ("signatures", "unsigned")}
    text = json.dumps(bare, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode()


def sign(value, user_id, key_id, account):
    """Adds a signature to an object. An Olm account is an Ed25519 key pair among other things."""
    signature = account.sign(canonical(value)).to_base64()
    value.setdefault("signatures", {}).setdefault(user_id, {})[key_id] = signature


def verify(value, user_id, key_id, public):
    """Fails unless the object carries this signature of the key (Ed25519, unpadded base64)."""
    signature = value.get("signatures", {}).get(user_id, {}).get(key_id)
    require(signature, f"no signature by {key_id} of {user_id}")
    key = vodozemac.Ed25519PublicKey.from_base64(public)
    key.verify_signature(canonical(value), vodozemac.Ed25519Signature.from_base64(signature))


class Identity:
    """Cross-signing keys of a user: the master key and the self-signing key."""

    def __init__(self, user_id):
        self.user_id = user_id
        self.master = vodozemac.Account()
        self.self_signing = vodozemac.Account()

    def keys(self):
        """What `/keys/device_signing/upload` takes."""
        master = self._key("master", self.master)
        self_signing = self._key("self_signing", self.self_signing)
        sign(self_signing, self.user_id, key_id_of(self.master), self.master)
        return {"master_key": master, "self_signing_key": self_signing}

    def signed(self, device_keys):
        """The device's keys with the owner's signature."""
        keys = json.loads(json.dumps(device_keys))
        sign(keys, self.user_id, key_id_of(self.self_signing), self.self_signing)
        return keys

    def _key(self, usage, account):
        public = account.ed25519_key.to_base64()
        return {
            "user_id": self.user_id,
            "usage": [usage],
            "keys": {f"ed25519:{public}": public},
        }


def key_id_of(account):
    return f"ed25519:{account.ed25519_key.to_base64()}"


def cross_signed(answer, user_id, device_id):
    """A device's keys in an answer to `/keys/query`, once all signatures above them hold."""
    device = answer["device_keys"].get(user_id, {}).get(device_id)
    require(device, f"no device {device_id} of {user_id}")
    require(device["user_id"] == user_id and device["device_id"] == device_id, "another's keys")
    verify(device, user_id, f"ed25519:{device_id}", device["keys"][f"ed25519:{device_id}"])
    [(master_id, master)] = answer["master_keys"][user_id]["keys"].items()
    self_signing = answer["self_signing_keys"][user_id]
    verify(self_signing, user_id, master_id, master)
    [(self_signing_id, public)] = self_signing["keys"].items()
    verify(device, user_id, self_signing_id, public)
    return device


class Device:
    """The Olm account of one device, its sessions, and the room keys that it holds."""

    def __init__(self, user_id, device_id):
        self.user_id = user_id
        self.device_id = device_id
        self.account = vodozemac.Account()
        self.olm = {}
        self.room_keys = {}

    def keys(self):
        """Device keys, signed by the device itself."""
        keys = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": [OLM, MEGOLM],
            "keys": {
                f"curve25519:{self.device_id}": self.account.curve25519_key.to_base64(),
                f"ed25519:{self.device_id}": self.account.ed25519_key.to_base64(),
            },
        }
        self._sign(keys)
        return keys

    def fresh_keys(self):
        """One-time keys and a fallback key, for `/keys/upload`."""
        self.account.generate_one_time_keys(ONE_TIME_KEYS)
        self.account.generate_fallback_key()
        one_time = self._signed(self.account.one_time_keys, {})
        fallback = self._signed(self.account.fallback_key, {"fallback": True})
        self.account.mark_keys_as_published()
        return {"one_time_keys": one_time, "fallback_keys": fallback}

    def _signed(self, keys, more):
        signed = {}
        for key_id, key in keys.items():
            content = {"key": key.to_base64(), **more}
            self._sign(content)
            signed[f"signed_curve25519:{key_id}"] = content
        return signed

    def _sign(self, value):
        sign(value, self.user_id, f"ed25519:{self.device_id}", self.account)

    def open_olm(self, sender, content, device_keys):
        """The payload of an Olm message. `device_keys(user, curve25519)` finds the sending device,
        its signatures checked."""
        require(content["algorithm"] == OLM, f"algorithm {content['algorithm']}")
        message = content["ciphertext"].get(self.account.curve25519_key.to_base64())
        require(message, "not for this device")
        payload = json.loads(self._decrypt_olm(content["sender_key"], message))
        require(payload["sender"] == sender, f"sender is {payload['sender']} inside")
        require(payload["recipient"] == self.user_id, f"for {payload['recipient']}")
        own = self.account.ed25519_key.to_base64()
        require(payload["recipient_keys"]["ed25519"] == own, "for another device's key")
        device = device_keys(sender, content["sender_key"])
        signing = device["keys"][f"ed25519:{device['device_id']}"]
        require(payload["keys"]["ed25519"] == signing, "the sending device has another key")
        return payload

    def _decrypt_olm(self, sender_key, message):
        if message["type"] == 1:
            text = vodozemac.AnyOlmMessage.from_parts(1, unpadded(message["body"]))
            return self._with_any(sender_key, text)
        pre_key = vodozemac.PreKeyMessage.from_base64(message["body"])
        for session in self.olm.get(sender_key, []):
            if session.session_matches(pre_key):
                return session.decrypt(pre_key.to_any())
        identity = vodozemac.Curve25519PublicKey.from_base64(sender_key)
        session, plaintext = self.account.create_inbound_session(identity, pre_key)
        self.olm.setdefault(sender_key, []).insert(0, session)
        return plaintext

    def _with_any(self, sender_key, message):
        for session in self.olm.get(sender_key, []):
            try:
                return session.decrypt(message)
            except vodozemac.OlmDecryptionException:
                continue
        raise Wrong("no Olm session opens it")

    def take_room_key(self, sender, content):
        """Keeps the session of an `m.room_key`; its room and session id."""
        require(content["algorithm"] == MEGOLM, f"algorithm {content['algorithm']}")
        session = vodozemac.InboundGroupSession(vodozemac.SessionKey(content["session_key"]))
        require(session.session_id == content["session_id"], "the key of another session")
        place = (content["room_id"], content["session_id"])
        known = self.room_keys.get(place)
        if known and known[1].first_known_index <= session.first_known_index:
            return place
        require(not known or known[0] == sender, "the session is somebody else's")
        self.room_keys[place] = (sender, session)
        return place

    def open_state(self, event):
        """The payload of an encrypted state event, checked against what stands around it."""
        content, room_id = event["content"], event["room_id"]
        require(content.get("algorithm") == MEGOLM, "not a Megolm event")
        held = self.room_keys.get((room_id, content["session_id"]))
        require(held, "no key of its session")
        creator, session = held
        require(creator == event["sender"], f"the session is {creator}'s")
        message = vodozemac.MegolmMessage.from_base64(content["ciphertext"])
        payload = json.loads(session.decrypt(message).plaintext)
        require(payload["room_id"] == room_id, f"for room {payload['room_id']}")
        packed = f"{payload['type']}:{payload['state_key']}"
        require(packed == event["state_key"], f"{packed} is packed as {event['state_key']}")
        return payload


def unpadded(text):
    """The bytes of unpadded base64."""
    return base64.b64decode(text + "=" * (-len(text) % 4))
