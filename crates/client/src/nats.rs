//! Connecting to NATS with the user and password of a URL, which the NATS client leaves unused.

use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};

/// A dead connection is noticed after two of these; the NATS client's own default takes minutes.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Connects to `nats://user:password@host:port` as `name`. Later losses are repaired by the
/// client; only the first connection must succeed.
pub async fn connect(url: &str, name: &str, options: ConnectOptions) -> Result<async_nats::Client, String> {
    let address: ServerAddr = url.parse().map_err(|error: std::io::Error| error.to_string())?;
    let options = options.name(name).ping_interval(PING_INTERVAL);
    let options = match (address.username(), address.password()) {
        (Some(user), Some(password)) => options.user_and_password(user.to_owned(), password.to_owned()),
        _ => options,
    };
    // Without the password, which would otherwise show wherever addresses are logged.
    let bare = format!("{}://{}:{}", address.scheme(), address.host(), address.port());
    options.connect(bare).await.map_err(|error| error.to_string())
}
