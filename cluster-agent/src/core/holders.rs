//! Pure. Where the Workload API meets index, bundles and the CA.

use std::time::{Duration, Instant, SystemTime};

use super::store::StreamId;
use super::{Core, certificates};
use crate::identity::entitled;
use crate::workload::{SVIDS_MAX, Word};

impl Core {
    /// A user asks what it is, and wants to be told again.
    pub fn hold(&mut self, id: StreamId, uid: u32, now: Instant, wall: SystemTime) {
        self.holders.open(id, uid);
        self.settle(now, wall);
    }

    /// It does not want to know any more.
    pub fn released(&mut self, id: StreamId) {
        self.holders.closed(id);
    }

    /// Does what an input has led to, for streams of both kinds.
    pub(super) fn settle(&mut self, now: Instant, wall: SystemTime) {
        self.settle_streams(now, wall);
        for uid in self.holders.take_stale() {
            self.tell_holder(uid, now, wall);
        }
        self.effects.words.append(&mut self.holders.take_words());
    }

    fn tell_holder(&mut self, uid: u32, now: Instant, wall: SystemTime) {
        // Objects decide, so before they were read once nobody is anybody, and nobody is denied.
        if self.source.version.revision == 0 {
            let why = Word::Unavailable("the agent has not read its source yet; ask again".to_owned());
            return self.holders.end(uid, &why);
        }
        let agent_uid = self.settings.agent_uid;
        let found = entitled(&self.index, uid, agent_uid, SVIDS_MAX);
        let (authority, jump, issued) = (&self.authority, self.clock_jump, &mut self.effects.issued);
        let denied = || {
            format!(
                "no WorkloadEntry of this cluster belongs to uid {uid}: annotate one with \
                 federation.meshfed.io/unix-uid: \"{uid}\" (without it, it belongs to uid {agent_uid})"
            )
        };
        let issue = |id: &_| {
            let made = certificates::issue(authority, jump, id, None, wall)?;
            *issued += 1;
            Ok(made)
        };
        let renew_after: Duration = authority.renew_after();
        self.holders.tell(uid, found, denied, issue, renew_after, now);
    }
}
