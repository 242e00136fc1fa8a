//! The identifiers of the ledger: each once, encrypted, and known in its rows by a number.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use matrix_sdk_store_encryption::StoreCipher;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use crate::store::{Result, Store};

/// How many numbers, and how many names, are kept in memory at most.
const MOST_CACHED: usize = 65_536;
/// How many values one statement takes.
const CHUNK: usize = 500;

/// The keyed hash of a name and its kind.
pub(super) type NameHash = [u8; 32];

/// What a name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Room,
    User,
    Device,
    Tuple,
    Policy,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::User => "user",
            Self::Device => "device",
            Self::Tuple => "tuple",
            Self::Policy => "policy",
        }
    }
}

/// Names and numbers that were read before. A number gets here from committed rows alone: one that a
/// transaction made may be another's after it was rolled back.
#[derive(Default)]
pub(in crate::store) struct Cache {
    numbers: Mutex<HashMap<NameHash, i64>>,
    names: Mutex<HashMap<NameHash, String>>,
}

impl Cache {
    fn number(&self, hash: &NameHash) -> Option<i64> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).get(hash).copied()
    }

    fn keep_number(&self, hash: NameHash, number: i64) {
        keep(&self.numbers, hash, number);
    }
}

fn keep<T>(cache: &Mutex<HashMap<NameHash, T>>, hash: NameHash, value: T) {
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= MOST_CACHED {
        cache.clear();
    }
    cache.insert(hash, value);
}

fn hash(store: &Store, kind: Kind, name: &str) -> NameHash {
    hash_by(&store.cipher, kind, name)
}

/// The hash by which a name is found in the store that `cipher` is of.
pub(super) fn hash_by(cipher: &StoreCipher, kind: Kind, name: &str) -> NameHash {
    cipher.hash_key(kind.as_str(), name.as_bytes())
}

/// The name that a row of `names` holds.
pub(super) fn open(store: &Store, hash: &[u8], locked: &[u8]) -> Result<String> {
    let hash: NameHash = hash.try_into().map_err(crate::store::StoreError::corrupt("hash"))?;
    let kept = store.names.names.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
    if let Some(name) = kept {
        return Ok(name);
    }
    let name: String = store.unlock(locked)?;
    keep(&store.names.names, hash, name.clone());
    Ok(name)
}

/// The number of a name; `None` where the ledger has never heard of it.
pub(super) async fn find(
    store: &Store,
    db: &mut SqliteConnection,
    kind: Kind,
    name: &str,
) -> Result<Option<i64>> {
    let hash = hash(store, kind, name);
    if let Some(number) = store.names.number(&hash) {
        return Ok(Some(number));
    }
    Ok(read(db, &[hash]).await?.get(&hash).copied())
}

/// The numbers of names, those included that are new, as part of the caller's transaction.
pub(super) async fn intern(
    store: &Store,
    db: &mut SqliteConnection,
    names: &BTreeSet<(Kind, String)>,
) -> Result<HashMap<(Kind, String), i64>> {
    let mut numbers = HashMap::with_capacity(names.len());
    let mut missing: HashMap<NameHash, &(Kind, String)> = HashMap::new();
    for name in names {
        let hash = hash(store, name.0, &name.1);
        match store.names.number(&hash) {
            Some(number) => drop(numbers.insert(name.clone(), number)),
            None => drop(missing.insert(hash, name)),
        }
    }
    if missing.is_empty() {
        return Ok(numbers);
    }
    let hashes: Vec<NameHash> = missing.keys().copied().collect();
    for (hash, number) in read(&mut *store.read().await?, &hashes).await? {
        store.names.keep_number(hash, number);
    }
    let new: Vec<(&NameHash, &&(Kind, String))> =
        missing.iter().filter(|(hash, _)| store.names.number(hash).is_none()).collect();
    for chunk in new.chunks(CHUNK) {
        let mut rows = Vec::with_capacity(chunk.len());
        for (hash, name) in chunk {
            rows.push((name.0.as_str(), hash.to_vec(), store.lock(&name.1)?));
        }
        let mut query: QueryBuilder<Sqlite> =
            QueryBuilder::new("INSERT OR IGNORE INTO names (kind, hash, name) ");
        query.push_values(rows, |mut row, (kind, hash, name)| {
            row.push_bind(kind).push_bind(hash).push_bind(name);
        });
        query.build().execute(&mut *db).await?;
    }
    for (hash, number) in read(db, &hashes).await? {
        if let Some(name) = missing.get(&hash) {
            numbers.insert((*name).clone(), number);
        }
    }
    Ok(numbers)
}

async fn read(db: &mut SqliteConnection, hashes: &[NameHash]) -> Result<HashMap<NameHash, i64>> {
    let mut found = HashMap::with_capacity(hashes.len());
    for chunk in hashes.chunks(CHUNK) {
        let mut query: QueryBuilder<Sqlite> =
            QueryBuilder::new("SELECT hash, id FROM names WHERE hash IN (");
        let mut list = query.separated(", ");
        for hash in chunk {
            list.push_bind(hash.to_vec());
        }
        query.push(")");
        let rows: Vec<(Vec<u8>, i64)> = query.build_query_as().fetch_all(&mut *db).await?;
        for (hash, number) in rows {
            let hash = hash.try_into().map_err(crate::store::StoreError::corrupt("hash"))?;
            found.insert(hash, number);
        }
    }
    Ok(found)
}
