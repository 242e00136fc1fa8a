//! Stores that are lost and put back, on real files.

use matrix_sdk_crypto::OlmMachine;
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{device_id, user_id};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::*;
use crate::{
    backup::export_store,
    store::{Store, set_meta},
};

const NOW: i64 = 1_769_851_800_000;
const DEVICE: &str = "KEEPER";

/// A machine with a configuration for the keeper.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn config_of(&self, localpart: &str, passphrase: &str) -> Config {
        let url = self.path("keeper.db");
        let yaml = format!(
            r#"
homeserver: {{ address: "http://127.0.0.1:8008", domain: "localhost" }}
appservice:
  listen: "127.0.0.1:29330"
  address: "http://127.0.0.1:29330"
  registration: "registration.yaml"
  bot: {{ localpart: "{localpart}" }}
store: {{ url: "sqlite:{}", passphrase: "{passphrase}" }}
"#,
            url.display()
        );
        Config::from_yaml_for_test(&yaml).unwrap()
    }

    fn config(&self) -> Config {
        self.config_of("keeper", "the store's")
    }

    /// Makes a store, as a keeper does that has started once.
    async fn with_store(self) -> Self {
        let passphrase = SecretString::from("the store's");
        let store = Store::open(&self.path("keeper.db"), &passphrase).await.unwrap();
        let mut transaction = store.begin().await.unwrap();
        set_meta(&mut transaction, "device_id", DEVICE).await.unwrap();
        set_meta(&mut transaction, "since", "s1").await.unwrap();
        transaction.commit().await.unwrap();
        store.close().await;
        let folder = self.path("keeper-crypto");
        let keys =
            SqliteCryptoStore::open(&folder, Some(passphrase.expose_secret())).await.unwrap();
        let user = user_id!("@keeper:localhost");
        let machine =
            OlmMachine::with_store(user, device_id!("KEEPER"), keys.clone(), None).await.unwrap();
        drop(machine);
        matrix_sdk_crypto::store::CryptoStore::close(&keys).await.unwrap();
        self
    }

    async fn export(&self) -> Result<Manifest, BackupError> {
        let out = File::create(self.path("backup.age")).unwrap();
        Ok(export_store(&self.config(), &passphrase(), out, NOW).await?.0)
    }

    async fn import(&self) -> Result<Manifest, BackupError> {
        import_store(&self.config(), &passphrase(), &self.path("backup.age")).await
    }

    /// Loses the store.
    fn lose(&self) {
        for name in ["keeper.db", "keeper.db-wal", "keeper.db-shm"] {
            let _ = fs::remove_file(self.path(name));
        }
        let _ = fs::remove_dir_all(self.path("keeper-crypto"));
    }

    /// What lies in the machine's folder.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn meta(&self, key: &str) -> Option<String> {
        let passphrase = SecretString::from("the store's");
        let store = Store::open(&self.path("keeper.db"), &passphrase).await.unwrap();
        let value = store.meta(key).await.unwrap();
        store.close().await;
        value
    }
}

fn passphrase() -> SecretString {
    SecretString::from("the backup's")
}

async fn lost() -> Machine {
    let machine = Machine::new().with_store().await;
    machine.export().await.unwrap();
    machine.lose();
    machine
}

#[tokio::test]
async fn a_lost_store_is_put_back_and_says_that_the_device_has_to_be_another() {
    let machine = lost().await;
    let manifest = machine.import().await.unwrap();
    assert_eq!((manifest.device_id.as_str(), manifest.made_at), (DEVICE, NOW));
    assert_eq!(machine.names(), ["backup.age", "keeper-crypto", "keeper.db"]);
    assert_eq!(machine.meta("device_renewal").await.as_deref(), Some("restored"));
    assert_eq!(machine.meta("since").await.as_deref(), Some("s1"));
    let mode = |name: &str| {
        std::os::unix::fs::MetadataExt::mode(&fs::metadata(machine.path(name)).unwrap()) & 0o777
    };
    assert_eq!((mode("keeper-crypto"), mode("keeper.db")), (0o700, 0o600));
    assert_eq!(mode("keeper-crypto/matrix-sdk-crypto.sqlite3"), 0o600);
}

#[tokio::test]
async fn nothing_is_put_in_place_of_anything_that_is_left_of_a_store() {
    let machine = lost().await;
    for name in ["keeper.db", "keeper.db-wal", "keeper-crypto"] {
        fs::write(machine.path(name), "left over").unwrap();
        let error = machine.import().await.unwrap_err();
        assert!(matches!(&error, BackupError::StoreIsThere(path) if *path == machine.path(name)));
        assert_eq!(machine.names(), ["backup.age", name]);
        fs::remove_file(machine.path(name)).unwrap();
    }
}

#[tokio::test]
async fn a_backup_that_does_not_fit_leaves_nothing() {
    let machine = lost().await;
    let file = machine.path("backup.age");
    let other = machine.config_of("other", "the store's");
    let error = import_store(&other, &passphrase(), &file).await.unwrap_err();
    assert!(matches!(error, BackupError::OtherKeeper { .. }), "{error}");
    let locked = machine.config_of("keeper", "another");
    let error = import_store(&locked, &passphrase(), &file).await.unwrap_err();
    assert!(error.to_string().contains("store.passphrase"), "{error}");
    let error = import_store(&machine.config(), &"wrong".to_owned().into(), &file).await;
    assert!(matches!(error, Err(BackupError::DoesNotOpen)));
    assert_eq!(machine.names(), ["backup.age"]);
}

#[tokio::test]
async fn a_kill_in_the_middle_of_an_import_leaves_nothing_that_the_next_one_does_not_mend() {
    let machine = lost().await;
    machine.import().await.unwrap();
    // As after a kill between the moving of the key store and the database.
    let half = machine.path("keeper-import");
    fs::create_dir(&half).unwrap();
    fs::rename(machine.path("keeper.db"), half.join(DATABASE)).unwrap();
    fs::write(half.join(PLACING), "").unwrap();
    let refused = settle_import(&machine.path("keeper.db")).unwrap_err();
    assert!(matches!(refused, BackupError::HalfMade(_)), "a keeper must not begin with that");
    machine.import().await.unwrap();
    assert_eq!(machine.names(), ["backup.age", "keeper-crypto", "keeper.db"]);
    assert_eq!(machine.meta("device_renewal").await.as_deref(), Some("restored"));
}

#[tokio::test]
async fn a_kill_after_the_last_step_of_an_import_leaves_a_store() {
    let machine = lost().await;
    machine.import().await.unwrap();
    let half = machine.path("keeper-import");
    fs::create_dir(&half).unwrap();
    fs::hard_link(machine.path("keeper.db"), half.join(DATABASE)).unwrap();
    fs::write(half.join(PLACING), "").unwrap();
    settle_import(&machine.path("keeper.db")).unwrap();
    assert_eq!(machine.names(), ["backup.age", "keeper-crypto", "keeper.db"]);
    assert_eq!(machine.meta("device_renewal").await.as_deref(), Some("restored"));
}

#[tokio::test]
async fn a_key_store_that_no_import_has_left_is_not_removed() {
    let machine = lost().await;
    let half = machine.path("keeper-import");
    fs::create_dir(&half).unwrap();
    fs::write(half.join(DATABASE), "half unpacked").unwrap();
    fs::create_dir(machine.path("keeper-crypto")).unwrap();
    assert!(matches!(machine.import().await, Err(BackupError::StoreIsThere(_))));
    assert_eq!(machine.names(), ["backup.age", "keeper-crypto"]);
}

#[tokio::test]
async fn a_store_that_a_keeper_makes_meanwhile_stays() {
    let machine = Machine::new().with_store().await;
    let database = machine.path("keeper.db");
    let workplace = Workplace::open(&database, IMPORT).unwrap();
    workplace.create(DATABASE).unwrap();
    workplace.create(KEY_STORE).unwrap();
    fs::rename(machine.path("keeper-crypto"), machine.path("away")).unwrap();
    let before = fs::read(&database).unwrap();
    let error = put_in_place(&database, &workplace).unwrap_err();
    assert!(matches!(error, BackupError::StoreAppeared(_)), "{error}");
    drop(workplace);
    assert_eq!(fs::read(&database).unwrap(), before);
    assert_eq!(machine.names(), ["away", "keeper.db"]);
}

#[tokio::test]
async fn there_is_no_backup_of_a_store_that_is_none() {
    let machine = Machine::new();
    assert!(matches!(machine.export().await, Err(BackupError::NoStore(_))));
    let machine = machine.with_store().await;
    fs::remove_dir_all(machine.path("keeper-crypto")).unwrap();
    assert!(matches!(machine.export().await, Err(BackupError::NoDevice(_))));
    assert_eq!(machine.names(), ["backup.age", "keeper.db"]);
}
