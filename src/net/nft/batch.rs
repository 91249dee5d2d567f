//! Atomic changes: a batch is applied whole or not at all, and the step that the kernel refused is named.

use super::{Chain, ChainKind, HookPoint, ListedRule, NftError, Policy, Rule, Ruleset, Table, expression, list, read};
use crate::net::netlink::{Client, Message};
use netlink_packet_core::{NLM_F_ACK, NetlinkSerializable};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute, RuleMessage,
    TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// Userdata of a rule as `nft` writes it: type 0 is the comment, ending in zero.
const USERDATA_COMMENT: u8 = 0;

/// Steps that are to be taken together.
#[derive(Debug, Clone, Default)]
pub struct Batch(Vec<(String, Message)>);

impl Batch {
    /// Without steps.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a table; an existing one of that name is used.
    pub fn add_table(&mut self, table: &Table) {
        self.table_step(table, TableFlags::empty());
    }

    /// Makes a table that belongs to the [`Nft`] that commits the batch: nobody else may change it, and the kernel
    /// removes it with all that is in it when that socket closes, however its process ends (Linux 5.12).
    pub fn add_owned_table(&mut self, table: &Table) {
        self.table_step(table, TableFlags::Owner);
    }

    fn table_step(&mut self, table: &Table, flags: TableFlags) {
        let attributes = vec![TableAttribute::Name(table.name.clone()), TableAttribute::Flags(flags)];
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        self.push(format!("make the firewall table {}", table.name), table, NLM_F_CREATE, message);
    }

    /// Removes a table and all that is in it.
    pub fn delete_table(&mut self, table: &Table) {
        let message =
            NfTablesMessage::DeleteTable(TableMessage { attributes: vec![TableAttribute::Name(table.name.clone())] });
        self.push(format!("remove the firewall table {}", table.name), table, 0, message);
    }

    /// Makes a base chain, or changes the policy of an existing one.
    pub fn add_chain(&mut self, table: &Table, chain: &Chain) {
        let hook = match chain.hook {
            HookPoint::Prerouting => InetHookNumber::PreRouting,
            HookPoint::Input => InetHookNumber::LocalIn,
            HookPoint::Forward => InetHookNumber::Forward,
            HookPoint::Output => InetHookNumber::LocalOut,
            HookPoint::Postrouting => InetHookNumber::PostRouting,
        };
        let kind = match chain.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        };
        let attributes = vec![
            ChainAttribute::Table(table.name.clone()),
            ChainAttribute::Name(chain.name.clone()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(hook)),
                Hook::Priority(chain.priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(policy_code(chain.policy)),
            ChainAttribute::Type(kind.to_owned()),
        ];
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        self.push(format!("make the firewall chain {}", chain.name), table, NLM_F_CREATE, message);
    }

    /// Makes a chain that only other chains call.
    pub fn add_called_chain(&mut self, table: &Table, name: &str) {
        let attributes = vec![ChainAttribute::Table(table.name.clone()), ChainAttribute::Name(name.to_owned())];
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        self.push(format!("make the firewall chain {name}"), table, NLM_F_CREATE, message);
    }

    /// Changes the policy of an existing base chain.
    pub fn set_policy(&mut self, table: &Table, chain: &str, policy: Policy) {
        let attributes = vec![
            ChainAttribute::Table(table.name.clone()),
            ChainAttribute::Name(chain.to_owned()),
            ChainAttribute::Policy(policy_code(policy)),
        ];
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        self.push(format!("change the policy of the firewall chain {chain}"), table, 0, message);
    }

    /// Adds a rule at the end of a chain.
    pub fn append_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.rule_step(table, chain, rule, NLM_F_CREATE | NLM_F_APPEND);
    }

    /// Adds a rule at the head of a chain.
    pub fn insert_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.rule_step(table, chain, rule, NLM_F_CREATE);
    }

    fn rule_step(&mut self, table: &Table, chain: &str, rule: &Rule, flags: u16) {
        let mut attributes = vec![
            RuleAttribute::Table(table.name.clone()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expression::rule(table.family, rule)),
        ];
        if let Some(comment) = &rule.comment {
            let text = &comment.as_bytes()[..comment.len().min(127)];
            let mut userdata = vec![USERDATA_COMMENT, text.len() as u8 + 1];
            userdata.extend(text);
            userdata.push(0);
            attributes.push(RuleAttribute::UserData(userdata));
        }
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        self.push(format!("add the rule {rule:?} to the firewall chain {chain}"), table, flags, message);
    }

    /// Removes the rule with that handle (of [`Nft::rules`]).
    pub fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) {
        let attributes = vec![
            RuleAttribute::Table(table.name.clone()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Handle(handle),
        ];
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        self.push(format!("remove rule {handle} from the firewall chain {chain}"), table, 0, message);
    }

    /// A step whose attributes are written already.
    pub(super) fn push_raw(&mut self, step: String, table: &Table, kind: u16, attributes: &[u8]) {
        // struct nfgenmsg: family, version 0, no resource.
        let payload = [&[table.family.number(), 0, 0, 0], attributes].concat();
        self.0.push((step, Message { kind, flags: NLM_F_CREATE, payload }));
    }

    fn push(&mut self, step: String, table: &Table, flags: u16, message: NfTablesMessage) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::from(table.family.number()), 0, 0);
        let message = NetfilterMessage::new(header, message);
        let mut payload = vec![0; NetlinkSerializable::buffer_len(&message)];
        message.serialize(&mut payload);
        self.0.push((step, Message { kind: message.message_type(), flags, payload }));
    }
}

fn policy_code(policy: Policy) -> u32 {
    match policy {
        Policy::Drop => 0,
        Policy::Accept => 1,
    }
}

/// A connection to nftables in the network namespace in which it was opened. Tables that it owns live as long as it.
pub struct Nft(Client);

impl Nft {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, NftError> {
        Client::open(NETLINK_NETFILTER).map(Self).map_err(|e| NftError::Netlink("open the firewall", e))
    }

    /// The number of the ruleset, which each change makes another.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        read::generation(&mut self.0).map_err(|e| NftError::Netlink("ask for the firewall's generation", e))
    }

    /// Applies all steps, or none.
    ///
    /// # Errors
    /// The first step that the kernel refused, or a failure of the exchange.
    pub fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        // struct nfgenmsg: unspecified family, version 0, and the subsystem that the batch is for, in network order.
        let mut marker = vec![0, 0];
        marker.extend(NFNL_SUBSYS_NFTABLES.to_be_bytes());
        let (names, steps): (Vec<String>, Vec<Message>) = batch.0.into_iter().unzip();
        let mut messages = vec![Message { kind: NFNL_MSG_BATCH_BEGIN, flags: 0, payload: marker.clone() }];
        messages.extend(steps);
        messages.push(Message { kind: NFNL_MSG_BATCH_END, flags: 0, payload: marker });
        let mut acknowledge = vec![NLM_F_ACK; messages.len()];
        (acknowledge[0], acknowledge[messages.len() - 1]) = (0, 0);
        let mut refused = Vec::new();
        self.0.batch(&messages, &acknowledge, &mut refused).map_err(|e| NftError::Netlink("change the firewall", e))?;
        let Some((index, source)) = refused.into_iter().next() else { return Ok(()) };
        let step = index.checked_sub(1).and_then(|at| names.get(at).cloned());
        Err(NftError::Refused { step: step.unwrap_or_else(|| "change the firewall".to_owned()), source })
    }

    /// The rules of one chain in their order.
    ///
    /// # Errors
    /// When the kernel does not answer, or with what does not parse.
    pub fn rules(&mut self, table: &Table, chain: &str) -> Result<Vec<ListedRule>, NftError> {
        let mut rules = list::rules(&mut self.0, table.family.number())?;
        rules.retain(|rule| rule.table == table.name && rule.chain == chain);
        Ok(rules)
    }

    /// Everything: tables, chains, sets and rules of every family, in a stable and comparable form.
    ///
    /// # Errors
    /// When the kernel does not answer, or with what does not parse.
    pub fn ruleset(&mut self) -> Result<Ruleset, NftError> {
        list::ruleset(&mut self.0)
    }

    /// The chains that filter, with their rules, as far as they are understood, and the rules of all chains that send packets elsewhere. For
    /// explaining, not for comparing.
    ///
    /// # Errors
    /// When the kernel does not answer, or with what does not parse.
    pub fn chains(&mut self) -> Result<read::Read, NftError> {
        read::chains(&mut self.0)
    }
}
