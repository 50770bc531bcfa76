//! Edge. The demo for people: brings the fleet up, shows one request and who answered, and stays until Ctrl-C.

use meshfed_runtime::drain::Signals;

use super::Options;
use super::steps::{Demo, Hop};
use crate::exit::{Failure, Outcome};
use crate::output::print;

/// Runs the demo until Ctrl-C, which may come at any time: what was begun is stopped and cleaned up, exit 0.
pub async fn tour(options: Options, mut stop: Signals) -> Outcome {
    let mut demo = Demo::new(options)?;
    print("meshfed demo: three clusters on this machine, no flat network between them\n\n");
    let shown = tokio::select! {
        shown = show(&mut demo) => shown,
        () = stop.received() => Ok(()),
    };
    if let Err(error) = shown {
        let advice = demo.keep_logs();
        let _stopped = demo.cleanup().await;
        return Err(Failure::failed(format!("{error:#}; {advice}")));
    }
    print("\nstopping …\n");
    let done = demo.cleanup().await?;
    print(&format!("  {done}\n"));
    Ok(0)
}

async fn show(demo: &mut Demo) -> anyhow::Result<()> {
    let text = demo.start().await?;
    print(&format!("  started   {text}\n"));
    let text = demo.join().await?;
    print(&format!("  joined    {text}\n"));
    let text = demo.cross_cluster().await?;
    print(&format!("  request   {text}\n\n"));
    let chain = demo.request().await?;
    print(&picture(&chain));
    let text = demo.unknown_sni().await?;
    print(&format!("\n  refused   {text}\n"));
    let text = demo.replayed_token().await?;
    print(&format!("  refused   {text}\n\n"));
    print(&format!("Try, in another terminal:\n\n  curl -s {}\n", demo.front()));
    if let Some(dir) = outside_path() {
        print(&format!("  export PATH={}:$PATH\n", dir.display()));
    }
    print(&format!("  export MESHFED_CONFIG={}\n", demo.config().display()));
    for line in ["clusters", "services", "endpoints shop/b:8080 --from west", "trust status", "status"] {
        print(&format!("  meshfed {line}\n"));
    }
    print(&format!("\nThe clusters' objects are in {}; change them and watch.\n", demo.root.join("fleet").display()));
    print(if demo.temporary {
        "Ctrl-C stops everything and leaves nothing behind.\n"
    } else {
        "Ctrl-C stops everything; the files stay.\n"
    });
    std::future::pending().await
}

/// The directory of this program, when it was called by a path and not by its name.
fn outside_path() -> Option<std::path::PathBuf> {
    let called = std::env::args_os().next()?;
    let program = std::env::current_exe().ok()?;
    (std::path::Path::new(&called).components().count() > 1).then(|| program.parent().map(Into::into))?
}

/// Who answered, and whom each one's proxy verified as its caller.
fn picture(chain: &[Hop]) -> String {
    chain.iter().enumerate().fold(String::new(), |mut out, (i, hop)| {
        let indent = "    ".repeat(i + 1);
        if i > 0 {
            out.push_str(&format!("{indent}↓ east-west gateway of {}, mTLS end to end\n", hop.cluster));
        }
        let caller = hop.peer_identity.as_deref().map(|p| format!("  called by {p}")).unwrap_or_default();
        out.push_str(&format!("{indent}{} in {} ({}){caller}\n", hop.service, hop.cluster, hop.zone));
        out
    })
}
