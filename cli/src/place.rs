//! Edge. Which Kubernetes cluster, and which release in it, a verb is about, and what its API server's errors say.

use std::path::PathBuf;

use meshfed_cluster_agent::membership::connect::{self, Place};
use meshfed_crds::api_server::said;
use meshfed_runtime::telemetry::chain;

use crate::exit::Failure;

/// The page and section that say which rights each verb needs.
const RIGHTS: &str = "docs/kubernetes/check.md#rights";

/// The flags that kubectl has for it.
#[derive(clap::Args, Debug, Clone)]
pub struct PlaceArgs {
    /// A context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig [default: KUBECONFIG, else ~/.kube/config; in a pod its service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the chart's release
    #[arg(short, long, value_name = "NAMESPACE", default_value = "meshfed-system")]
    namespace: String,
}

impl PlaceArgs {
    /// What turns the command lines of a message into those for the cluster that was named here: pasted, they have to be about
    /// the same one.
    pub fn here(&self) -> impl Fn(&str) -> String + use<> {
        let flag =
            |flag: &str, value: Option<String>| value.map(|v| format!("{flag} {} ", quoted(&v))).unwrap_or_default();
        let kubeconfig = flag("--kubeconfig", self.kubeconfig.as_ref().map(|file| file.display().to_string()));
        let context = |name: &str| flag(name, self.context.clone()) + &kubeconfig;
        let ours = context("--context");
        let meshfed = ["kubectl ", "meshfed dns corefile ", "meshfed check ", "meshfed join ", "meshfed leave "];
        let mut flags = meshfed.map(|command| (command, ours.clone())).to_vec();
        flags.push(("helm ", context("--kube-context")));
        move |text| {
            flags
                .iter()
                .fold(text.to_owned(), |text, (command, flags)| text.replace(command, &format!("{command}{flags}")))
        }
    }

    /// The way to it; nobody is asked yet.
    ///
    /// # Errors
    /// Bad input: a kubeconfig that cannot be used.
    pub async fn connect(self) -> Result<Place, Failure> {
        let Self { context, kubeconfig, namespace } = self;
        at(connect::Options { kubeconfig, context, namespace: Some(namespace) }).await
    }
}

/// A word of a POSIX shell's command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The way to a place; nobody is asked yet.
///
/// # Errors
/// Bad input: a kubeconfig that cannot be used.
pub async fn at(options: connect::Options) -> Result<Place, Failure> {
    connect::connect(&options).await.map_err(|error| Failure::bad_input(chain(&error)))
}

/// Whether the API server has no such kind, where a list was asked for.
pub fn is_missing_kind(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The API server did not answer, or refused: which one, what it said, and what to see to.
pub fn refused(place: &Place, error: &kube::Error) -> Failure {
    let (whence, said) = (&place.whence, said(error));
    let code = if let kube::Error::Api(status) = error { Some(status.code) } else { None };
    let remedy = match code {
        Some(401) => "; see the credentials in the kubeconfig".to_owned(),
        Some(403) => format!("; {RIGHTS} lists the rights that this needs"),
        Some(_) => String::new(),
        None => {
            "; see that it runs and can be reached from here, and that this is the cluster that is meant".to_owned()
        }
    };
    Failure::failed(format!("the API server {whence}: {said}{remedy}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::PlaceArgs;

    /// Where several clusters are in one kubeconfig, a command that is pasted without its context mends another one.
    ///
    /// Mutations seen to fail: `quoted` as the word itself; `helm` with `--context`.
    #[test]
    fn what_is_pasted_is_about_the_same_cluster() {
        let of = |context: Option<&str>, kubeconfig: Option<&str>| PlaceArgs {
            context: context.map(str::to_owned),
            kubeconfig: kubeconfig.map(Into::into),
            namespace: "x".to_owned(),
        };
        let remedy = "helm install meshfed helm/meshfed-cluster -n x, or kubectl -n x logs deploy/a, or 'meshfed dns corefile -n x'";
        assert_eq!(of(None, None).here()(remedy), remedy);
        assert_eq!(
            of(Some("west"), Some("/a b/c")).here()(remedy),
            "helm --kube-context west --kubeconfig '/a b/c' install meshfed helm/meshfed-cluster -n x, or kubectl --context west \
             --kubeconfig '/a b/c' -n x logs deploy/a, or 'meshfed dns corefile --context west --kubeconfig '/a b/c' -n x'"
        );
    }
}
