//! Edge. What the HTTP API asks of the members: tokens and plans. A change is durable when it returns.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use meshfed_api::http::{Plan, PlanRequest, ProblemKind, Token, TokenCreated, TokenRequest};
use meshfed_ca::token::Token as Secret;
use meshfed_model::names::ClusterName;
use meshfed_runtime::clock;

use super::declared;
use super::enrollment::Enroll;
use super::plan::Joiner;
use super::record::{AuditRecord, Fate, TokenRecord, audit_key, token_key};
use super::refusal::{Refusal, TOKEN_SENTENCE};
use super::token::{Wanted, shown};
use crate::operations::{Operations, Refused, WouldBe};
use crate::store::{StoreError, Table, Transaction, handle};

/// Tokens that are kept; those that ended a week ago go by themselves.
const TOKENS_MAX: usize = 100_000;

fn failed(error: &StoreError) -> Refused {
    tracing::error!(error = meshfed_runtime::telemetry::chain(error), "the store failed");
    Refused::new(ProblemKind::Unavailable, "the registry cannot do this now; try again, and see the federator's log")
}

/// What to run in the cluster; `kube`: the hub's fleet is one of Kubernetes clusters.
fn command(federator: &str, cluster: &str, kube: bool) -> Vec<String> {
    let hub = format!("https://{federator}");
    let whereto: &[&str] = if kube { &["--kube", "--context"] } else { &["--data-dir"] };
    let words = ["meshfed", "join", &hub, "--token-file", "FILE"].into_iter();
    words.chain(whereto.iter().copied()).chain([cluster]).map(str::to_owned).collect()
}

impl Enroll {
    /// The request, with what is declared of the cluster, checked.
    async fn wanted(&self, request: &TokenRequest) -> Result<Wanted, Refused> {
        let declared = match (self.declarations(), ClusterName::new(&request.cluster)) {
            (Some(declarations), Ok(cluster)) => declarations.of(&cluster).await.map_err(|error| {
                Refused::new(ProblemKind::Unavailable, format!("{error}; try again when the API server is back"))
            })?,
            (None, _) | (_, Err(_)) => None,
        };
        declared::judge(request, declared.as_ref()).map_err(|errors| {
            Refused::new(ProblemKind::InvalidBody, "the token cannot be made as asked; see errors").with(errors)
        })
    }

    async fn create(&self, request: &TokenRequest) -> Result<TokenCreated, Refused> {
        let wanted = self.wanted(request).await?;
        let registry = self.registry();
        let held = registry.tokens.load(Ordering::Acquire);
        if held >= TOKENS_MAX {
            let detail = format!("{held} tokens are kept, at most {TOKENS_MAX} are; they go a week after their end");
            return Err(Refused::new(ProblemKind::TooManyRequests, detail));
        }
        let secret = Secret::generate(registry.trust().pin())
            .map_err(|_none| Refused::new(ProblemKind::Unavailable, "no random numbers"))?;
        let now = self.now()?;
        let expires_at =
            now.checked_add(wanted.ttl).map_err(|error| Refused::new(ProblemKind::InvalidBody, error.to_string()))?;
        let record = TokenRecord {
            id: secret.id().to_owned(),
            secret_sha256: secret.secret_hash().to_vec(),
            grant: wanted.grant,
            created_at: now,
            expires_at,
            shown_revision: registry.revisions().bump(),
            fate: Fate::Unused,
        };
        let audit = self.audit(&record, "TokenCreated", format!("may be used until {expires_at}"));
        let transaction = Transaction::new()
            .create(Table::Tokens, token_key(&record.id), encoded(Table::Tokens, &record)?)
            .put(Table::Audit, audit_key(now, &record.id), encoded(Table::Audit, &audit)?);
        registry.store().commit(transaction).await.map_err(|e| failed(&e))?;
        registry.tokens.fetch_add(1, Ordering::AcqRel);
        let federator = registry.federators().first().map_or("HOST:15600", String::as_str);
        let cluster = record.grant.cluster.to_string();
        Ok(TokenCreated {
            id: record.id,
            token: secret.reveal().to_string(),
            expires_at: expires_at.to_string(),
            command: command(federator, &cluster, self.declarations().is_some()),
            cluster,
        })
    }

    /// Now, by the clock that issues.
    fn now(&self) -> Result<Timestamp, Refused> {
        let now = self.registry().clock.now().map_err(|jump| {
            tracing::error!("no token was made: {jump}");
            Refused::new(ProblemKind::Unavailable, format!("the federator's clock jumped: {jump}"))
        })?;
        Ok(clock::to_timestamp(now))
    }

    async fn find(&self, id: &str) -> Result<Option<(TokenRecord, u64)>, Refused> {
        if !meshfed_ca::token::is_id(id) {
            return Ok(None);
        }
        self.registry().store().get::<TokenRecord>(Table::Tokens, token_key(id)).await.map_err(|e| failed(&e))
    }

    fn audit(&self, token: &TokenRecord, kind: &str, detail: String) -> AuditRecord {
        AuditRecord {
            at: clock::timestamp(),
            actor: "admin".to_owned(),
            kind: kind.to_owned(),
            cluster: token.grant.cluster.clone(),
            detail,
        }
    }

    async fn revoke(&self, id: &str) -> Result<bool, Refused> {
        let registry = self.registry();
        let Some((mut token, revision)) = self.find(id).await? else { return Ok(false) };
        match token.fate {
            Fate::Revoked { .. } => return Ok(true),
            Fate::Used(_) => {
                let detail = "the token was used; it binds a member, and there is nothing to revoke";
                return Err(Refused::new(ProblemKind::Conflict, detail));
            }
            Fate::Unused => {}
        }
        let now = clock::timestamp();
        token.fate = Fate::Revoked { at: now };
        token.shown_revision = registry.revisions().bump();
        let audit = self.audit(&token, "TokenRevoked", String::new());
        let transaction = Transaction::new()
            .replace(Table::Tokens, token_key(id), Some(revision), encoded(Table::Tokens, &token)?)
            .put(Table::Audit, audit_key(now, id), encoded(Table::Audit, &audit)?);
        registry.store().commit(transaction).await.map_err(|e| failed(&e))?;
        Ok(true)
    }
}

fn encoded<T: serde::Serialize>(table: Table, value: &T) -> Result<Vec<u8>, Refused> {
    handle::bytes(table, value).map_err(|e| failed(&e))
}

/// What the caller of the HTTP API hears of a refusal: no more than a joiner does.
fn refused(refusal: &Refusal) -> Refused {
    match refusal {
        Refusal::Token(_) => Refused::new(ProblemKind::Unauthenticated, TOKEN_SENTENCE),
        Refusal::Limited | Refusal::Flooded => Refused::new(ProblemKind::TooManyRequests, refusal.to_string()),
        Refusal::Store(error) => failed(error),
        Refusal::Clock(_) => Refused::new(ProblemKind::Unavailable, refusal.to_string()),
        Refusal::Invalid { .. }
        | Refusal::Exists { .. }
        | Refusal::Clash { .. }
        | Refusal::RootOffline
        | Refusal::Renewal { .. }
        | Refusal::Trust(_) => Refused::new(ProblemKind::InvalidBody, refusal.to_string()),
    }
}

#[tonic::async_trait]
impl Operations for Enroll {
    async fn create_token(&self, request: TokenRequest) -> Result<TokenCreated, Refused> {
        self.create(&request).await
    }
    async fn would_be_token(&self, request: &TokenRequest) -> Result<WouldBe, Refused> {
        let wanted = self.wanted(request).await?;
        let expires_at = self.now()?.saturating_add(wanted.ttl).unwrap_or(Timestamp::MAX).to_string();
        Ok(WouldBe { cluster: wanted.grant.cluster.to_string(), expires_at })
    }
    async fn find_token(&self, id: &str) -> Result<Option<(u64, Token)>, Refused> {
        let now = clock::timestamp();
        Ok(self.find(id).await?.map(|(token, _)| (token.shown_revision, shown(&token, now))))
    }
    async fn list_tokens(&self) -> Result<(u64, Vec<Token>), Refused> {
        let now = clock::timestamp();
        let all = self.registry().store().scan::<TokenRecord>(Table::Tokens).await.map_err(|e| failed(&e))?;
        let revision = all.iter().map(|(_, t, _)| t.shown_revision).max().unwrap_or_default();
        Ok((revision, all.iter().map(|(_, t, _)| shown(t, now)).collect()))
    }
    async fn revoke_token(&self, id: &str) -> Result<bool, Refused> {
        self.revoke(id).await
    }
    async fn plan(&self, token: &str, request: PlanRequest, peer: SocketAddr) -> Result<Plan, Refused> {
        self.limited(peer.ip()).map_err(|r| refused(&r))?;
        let secret: Secret =
            token.parse().map_err(|_no_token| Refused::new(ProblemKind::Unauthenticated, TOKEN_SENTENCE))?;
        let valid = self.registry().valid_token(secret.id(), &secret.secret_hash()).await.map_err(|r| refused(&r))?;
        let joiner = Joiner { protocol: request.protocol, version: request.version, clock: request.clock.parse().ok() };
        Ok(self.plan_of(&valid, &joiner, &request.offers).0)
    }
}
