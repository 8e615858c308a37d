//! The server's certificate, for TLS on every port.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig, crypto};

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("the {what} `{}` cannot be read", path.display())]
    Unreadable {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("the {what} `{}` is not one in PEM form: {problem}", path.display())]
    Malformed {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The two files do not belong together, or are of a kind that is not supported.
    #[error(
        "the certificate `{}` and the private key `{}` cannot be used together",
        certificate.display(), key.display()
    )]
    Mismatched {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// A certificate and its key, ready to be used.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(key not shown)")
    }
}

impl Tls {
    /// Reads a certificate (with those between it and its authority after it) and its private
    /// key, both PEM. TLS 1.2 and 1.3 are offered.
    ///
    /// # Errors
    /// [`TlsError`]: a file is missing, is no PEM, or the two do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let text = read("certificate", certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| malformed("certificate", certificate, &error))?;
        if chain.is_empty() {
            let error = pem::Error::NoItemsFound;
            return Err(malformed("certificate", certificate, &error));
        }
        let text = read("private key", key)?;
        let private = PrivateKeyDer::from_pem_slice(&text);
        let private = private.map_err(|error| malformed("private key", key, &error))?;
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(chain, private))
            .map_err(|source| TlsError::Mismatched {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                source,
            })?;
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Greets clients that will speak `protocol` (as TLS names it: `h2`).
    pub(super) fn acceptor(&self, protocol: &str) -> TlsAcceptor {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.into()];
        TlsAcceptor::from(Arc::new(config))
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })
}

fn malformed(what: &'static str, path: &Path, error: &pem::Error) -> TlsError {
    TlsError::Malformed {
        what,
        path: path.to_owned(),
        problem: error.to_string(),
    }
}
