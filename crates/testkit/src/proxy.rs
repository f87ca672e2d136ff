//! A TCP proxy that cuts a connection at the worst moment: when a statement has been sent and its
//! answer has not come back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// When the connection is cut that carries the marked bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before the server has them: nothing happened, but the client cannot know.
    Before,
    /// After the server has answered: it happened, but the client cannot know.
    After,
}

type Armed = Arc<Mutex<Option<(Vec<u8>, Cut)>>>;

/// Stands between clients and one server.
pub struct Proxy {
    address: SocketAddr,
    armed: Armed,
}

impl Proxy {
    /// Begins to forward to `server`.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, armed) = (listener.local_addr()?, Armed::default());
        let watched = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, Arc::clone(&watched)));
            }
        });
        Ok(Proxy { address, armed })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the next connection on which a client sends `marker`; once.
    pub fn cut_at(&self, marker: &str, cut: Cut) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((marker.as_bytes().to_vec(), cut));
    }

    /// Whether the cut has not happened yet.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Forwards both ways until one side ends or the marker comes by.
async fn forward(mut client: TcpStream, server: SocketAddr, armed: Armed) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut from_server) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    // What was sent lately: a marker may come in two pieces.
    let mut sent: Vec<u8> = Vec::new();
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let bytes = &from_client[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                sent.extend_from_slice(bytes);
                match hit(&armed, &sent) {
                    Some(Cut::Before) => return Ok(()),
                    Some(Cut::After) => {
                        server.write_all(bytes).await?;
                        // The answer proves that the statement was carried out; nobody hears it.
                        let _ = server.read(&mut from_server).await?;
                        return Ok(());
                    }
                    None => server.write_all(bytes).await?,
                }
                let keep = sent.len().saturating_sub(256);
                sent.drain(..keep);
            }
            read = server.read(&mut from_server) => {
                let bytes = &from_server[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                client.write_all(bytes).await?;
            }
        }
    }
}

fn hit(armed: &Armed, sent: &[u8]) -> Option<Cut> {
    let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
    let (marker, _) = armed.as_ref()?;
    let found = sent.windows(marker.len()).any(|window| window == marker);
    if found { armed.take().map(|(_, cut)| cut) } else { None }
}
