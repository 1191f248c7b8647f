//! Registries: images go there and come from there byte for byte.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use oci_spec::image::{ImageIndex, MediaType};
use tokio::runtime::Runtime;

use super::{Blob, Image, credentials};

/// How to speak to a registry.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RegistryArgs {
    /// Speak plain HTTP to the registry; a registry on this machine gets it anyway unless --ca-cert is given
    #[arg(long)]
    pub insecure: bool,
    /// PEM file with the certificate authority of a private registry
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca_cert: Option<PathBuf>,
}

/// A connection to one repository of a registry.
pub struct Repository {
    client: Client,
    auth: RegistryAuth,
    runtime: Runtime,
    reference: Reference,
}

/// What a reference led to.
pub enum Pulled {
    /// One image.
    Image(Image),
    /// An index, and its images in order.
    Index(Blob, Vec<Image>),
}

impl Repository {
    /// Connects to the repository that `reference` is in, with the credentials of Docker's configuration.
    pub fn connect(reference: &Reference, args: &RegistryArgs) -> Result<Repository> {
        let registry = reference.resolve_registry();
        // An error means that the process already has a provider, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let plain_http = args.insecure || (args.ca_cert.is_none() && is_loopback(registry));
        let mut config = ClientConfig {
            protocol: if plain_http {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(Duration::from_secs(20)),
            read_timeout: Some(Duration::from_secs(120)),
            user_agent: concat!("sterna/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if let Some(path) = &args.ca_cert {
            let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            if !String::from_utf8_lossy(&data).contains("BEGIN CERTIFICATE") {
                bail!("{} holds no certificate in PEM format", path.display());
            }
            config.extra_root_certificates = vec![Certificate {
                encoding: CertificateEncoding::Pem,
                data,
            }];
        }
        let client = Client::try_from(config).context("cannot set up TLS")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let auth = match runtime.block_on(credentials::find(registry, reference.repository()))? {
            Some(found) => RegistryAuth::Basic(found.user, found.secret),
            None => RegistryAuth::Anonymous,
        };
        Ok(Repository {
            client,
            auth,
            runtime,
            reference: reference.clone(),
        })
    }

    /// The repository's image or index of that tag.
    fn tagged(&self, tag: &str) -> Reference {
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        Reference::with_tag(registry.to_owned(), repository.to_owned(), tag.to_owned())
    }

    /// Pushes an image under a tag; blobs that the registry has are not sent again. Returns the bytes sent.
    pub fn push(&self, image: &Image, tag: &str) -> Result<u64> {
        let reference = self.tagged(tag);
        self.runtime.block_on(async {
            self.client
                .auth(&reference, &self.auth, RegistryOperation::Push)
                .await
                .map_err(|error| self.explain(error, &reference))?;
            let mut sent = 0;
            for blob in image.layers.iter().chain([&image.config]) {
                // A registry that does not say whether it has a blob gets it.
                if self.client.blob_exists(&reference, &blob.digest).await.unwrap_or(false) {
                    continue;
                }
                let pushed = self
                    .client
                    .push_blob(&reference, blob.bytes.clone(), &blob.digest)
                    .await;
                pushed.map_err(|error| self.explain(error, &reference))?;
                sent += blob.bytes.len() as u64;
            }
            self.put_manifest(&image.manifest, &reference).await?;
            Ok(sent)
        })
    }

    /// Pushes an index whose images are there.
    pub fn push_index(&self, index: &Blob, tag: &str) -> Result<()> {
        self.runtime.block_on(self.put_manifest(index, &self.tagged(tag)))
    }

    /// Pulls whatever the reference names, and checks every digest.
    pub fn pull(&self) -> Result<Pulled> {
        self.runtime.block_on(async {
            let root = self.get_manifest(&self.reference).await?;
            if root.media_type != MediaType::ImageIndex {
                return Ok(Pulled::Image(self.get_image(root).await?));
            }
            let index: ImageIndex = serde_json::from_slice(&root.bytes).context("the image index is not valid")?;
            let mut images = Vec::new();
            for entry in index.manifests() {
                let reference = self.reference.clone_with_digest(entry.digest().to_string());
                images.push(self.get_image(self.get_manifest(&reference).await?).await?);
            }
            Ok(Pulled::Index(root, images))
        })
    }

    async fn put_manifest(&self, manifest: &Blob, reference: &Reference) -> Result<()> {
        let content_type = manifest
            .media_type
            .to_string()
            .parse()
            .context("a media type is a header value")?;
        let pushed = self
            .client
            .push_manifest_raw(reference, manifest.bytes.clone(), content_type)
            .await;
        pushed.map_err(|error| self.explain(error, reference))?;
        let there = self.client.fetch_manifest_digest(reference, &self.auth).await;
        let there = there.map_err(|error| self.explain(error, reference))?;
        if there != manifest.digest {
            bail!(
                "the registry has stored {reference} as {there} instead of {}",
                manifest.digest
            );
        }
        Ok(())
    }

    async fn get_manifest(&self, reference: &Reference) -> Result<Blob> {
        let types = [MediaType::ImageManifest.to_string(), MediaType::ImageIndex.to_string()];
        let accepted: Vec<&str> = types.iter().map(String::as_str).collect();
        let pulled = self.client.pull_manifest_raw(reference, &self.auth, &accepted).await;
        let (bytes, _) = pulled.map_err(|error| self.explain(error, reference))?;
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            media_type: MediaType,
        }
        let head: Head =
            serde_json::from_slice(&bytes).with_context(|| format!("{reference} is no OCI image or index"))?;
        let blob = Blob::new(head.media_type, bytes.to_vec());
        if reference.digest().is_some_and(|wanted| wanted != blob.digest) {
            bail!("the registry answered {} for {reference}", blob.digest);
        }
        Ok(blob)
    }

    async fn get_image(&self, manifest: Blob) -> Result<Image> {
        let parsed = super::parse_manifest(&manifest.bytes)?;
        let mut blobs = Vec::new();
        for descriptor in parsed.layers().iter().chain([parsed.config()]) {
            let digest = descriptor.digest().to_string();
            let mut bytes = Vec::new();
            let pulled = self
                .client
                .pull_blob(&self.reference, digest.as_str(), &mut bytes)
                .await;
            pulled.map_err(|error| self.explain(error, &self.reference))?;
            blobs.push(Blob::new(descriptor.media_type().clone(), bytes));
        }
        let config = blobs.pop().context("an image has a configuration")?;
        Ok(Image {
            manifest,
            config,
            layers: blobs,
        })
    }

    /// The library's error with the next step.
    fn explain(&self, error: oci_client::errors::OciDistributionError, reference: &Reference) -> anyhow::Error {
        use oci_client::errors::OciDistributionError as Error;
        let registry = reference.resolve_registry();
        let text = match &error {
            Error::UnauthorizedError { .. } | Error::AuthenticationFailure(_) => self.refused(registry),
            Error::ServerError { code: 401 | 403, .. } => self.refused(registry),
            Error::ImageManifestNotFoundError(_) => format!("{registry} has no {reference}"),
            Error::RequestError(source) if source.is_connect() => format!(
                "cannot connect to {registry}: is it running? --insecure speaks plain HTTP, --ca-cert trusts a private \
                 authority"
            ),
            Error::ServerError { code: 400, message, .. } if message.contains("HTTP request to an HTTPS server") => {
                format!("{registry} speaks TLS: --ca-cert names its certificate authority")
            }
            _ => format!("the registry {registry} failed"),
        };
        anyhow::Error::new(error).context(text)
    }

    fn refused(&self, registry: &str) -> String {
        match self.auth {
            RegistryAuth::Anonymous => format!("{registry} wants credentials: `docker login {registry}` first"),
            _ => format!("{registry} refuses the credentials of the Docker configuration: log in again"),
        }
    }
}

/// Whether `registry` (`host` or `host:port`) is this machine.
fn is_loopback(registry: &str) -> bool {
    if let Ok(address) = registry.parse::<std::net::SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_plain_http() {
        for local in [
            "localhost",
            "localhost:5000",
            "127.0.0.1",
            "127.1.2.3:5000",
            "[::1]:5000",
        ] {
            assert!(is_loopback(local), "{local}");
        }
        for remote in [
            "ghcr.io",
            "10.0.0.1:5000",
            "localhost.example.org",
            "127.0.0.1.example.org:80",
        ] {
            assert!(!is_loopback(remote), "{remote}");
        }
    }
}
