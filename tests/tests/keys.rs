//! Keys from end to end: rotation, revocation, strict mode.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use holdfast_client::{Client, ClientOptions, Request};
use holdfast_core::{Issuer, Verb};
use holdfast_protocol::{ClientKeys, RootToken};
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::{AUDIENCE, SOON, Serve, TOKEN, count, database, run};
use secrecy::SecretString;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Long enough for an answer, short enough for a silence.
const BRIEFLY: Duration = Duration::from_millis(1_500);

async fn connect(tenant: &Tenant, keys: ClientKeys) -> Result<Client> {
    let nats_url = tenant.nats_url("backend").to_owned();
    Ok(Client::connect(ClientOptions { nats_url, keys, audience: AUDIENCE.to_owned() }).await?)
}

/// Whether a command of this client is answered.
async fn is_heard(client: &Client) -> bool {
    let body = RawValue::from_string("{}".to_owned()).expect("JSON");
    let request = Request {
        id: Uuid::now_v7(),
        verb: Verb::OpenAccount,
        account: "user-1",
        body: &body,
        within: BRIEFLY,
        valid_for: SOON,
    };
    client.send(request).await.is_ok()
}

fn issuers_file(tenant: &Tenant, rest: &str) -> Result<PathBuf> {
    let file =
        std::env::temp_dir().join(format!("holdfast-issuers-{}-{}.toml", std::process::id(), tenant.number));
    let http = "[issuer.http]\nverbs = []\n";
    std::fs::write(&file, format!("{http}[issuer.backend]\nverbs = [\"open_account\"]\n{rest}\n"))?;
    Ok(file)
}

#[tokio::test]
async fn a_generation_is_rotated_and_a_key_revoked_while_it_runs() -> Result<()> {
    let tenant = Tenant::new().await?;
    let file = issuers_file(&tenant, "generations = [1]")?;
    let _ledger = Serve::start_with(&tenant, &["--issuers", &file.to_string_lossy()]).await?;
    let root = RootToken::new(&SecretString::from(TOKEN))?;
    let keys = |generation| anyhow::Ok(ClientKeys::derive(&root, &Issuer::new("backend")?, generation));
    let (first, second) = (connect(&tenant, keys(1)?).await?, connect(&tenant, keys(2)?).await?);
    assert!(is_heard(&first).await && !is_heard(&second).await);

    issuers_file(&tenant, "generations = [1, 2]")?;
    wait::until("the second generation is heard", SOON, async || is_heard(&second).await.then_some(()))
        .await?;
    assert!(is_heard(&first).await);

    let revoked = keys(1)?.command.id().to_owned();
    issuers_file(&tenant, &format!("generations = [1, 2]\nrevoked = [\"{revoked}\"]"))?;
    wait::until("the first is heard no more", SOON, async || (!is_heard(&first).await).then_some(())).await?;
    assert!(is_heard(&second).await);
    std::fs::remove_file(file)?;
    Ok(())
}

#[tokio::test]
async fn in_strict_mode_a_service_speaks_for_itself_only() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let derived = run(&tenant, &["token", "derive", "--issuer", "backend"]).await?;
    let keys: ClientKeys = String::from_utf8(derived.stdout)?.parse()?;
    assert!(is_heard(&connect(&tenant, keys.clone()).await?).await);
    // The same keys under another name: neither the key's issuer nor the subject fits.
    let posing = ClientKeys { issuer: Issuer::new("http")?, ..keys };
    assert!(!is_heard(&connect(&tenant, posing).await?).await);
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 1);
    Ok(())
}

#[tokio::test]
async fn the_token_before_is_accepted_while_the_token_rotates() -> Result<()> {
    let tenant = Tenant::new().await?;
    let before = "hf1_BBECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let file =
        std::env::temp_dir().join(format!("holdfast-previous-{}-{}", std::process::id(), tenant.number));
    std::fs::write(&file, before)?;
    let _ledger = Serve::start_with(&tenant, &["--previous-token-file", &file.to_string_lossy()]).await?;
    for token in [TOKEN, before] {
        let root = RootToken::new(&SecretString::from(token))?;
        let keys = ClientKeys::derive(&root, &Issuer::new("backend")?, 1);
        assert!(
            is_heard(&connect(&tenant, keys).await?).await,
            "an outcome signed under the same root is believed"
        );
    }
    let stranger = RootToken::new(&SecretString::from("hf1_CCECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"))?;
    let keys = ClientKeys::derive(&stranger, &Issuer::new("backend")?, 1);
    assert!(!is_heard(&connect(&tenant, keys).await?).await);
    std::fs::remove_file(file)?;
    Ok(())
}
