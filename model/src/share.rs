//! Pure. Exact parts of a client's requests, and the integer weights that stand for them.

use std::fmt;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::{BigRational, Ratio};
use num_traits::{CheckedAdd, CheckedMul, CheckedSub, ToPrimitive, Zero};

/// An exact part of a client's requests, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share(Form);

/// Reduced; big only where small does not hold it, so that equal shares have equal forms.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Small(Ratio<u128>),
    Big(Box<BigRational>),
}

impl Share {
    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match &self.0 {
            Form::Small(r) => r.is_zero(),
            Form::Big(r) => r.is_zero(),
        }
    }
    /// The nearest floating-point number (to some 2e-16).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "that is what is asked for")]
    pub fn to_f64(&self) -> f64 {
        match &self.0 {
            Form::Small(r) => *r.numer() as f64 / *r.denom() as f64,
            Form::Big(r) => r.to_f64().unwrap_or_default(),
        }
    }
    /// The exact value.
    #[must_use]
    pub fn exact(&self) -> BigRational {
        match &self.0 {
            Form::Small(r) => BigRational::new((*r.numer()).into(), (*r.denom()).into()),
            Form::Big(r) => r.as_ref().clone(),
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self(Form::Small(Ratio::zero()))
    }
}
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Small(r) => r.fmt(f),
            Form::Big(r) => r.fmt(f),
        }
    }
}
impl From<Ratio<u128>> for Share {
    fn from(r: Ratio<u128>) -> Self {
        Self(Form::Small(r))
    }
}
impl From<BigRational> for Share {
    fn from(r: BigRational) -> Self {
        match (r.numer().to_u128(), r.denom().to_u128()) {
            (Some(n), Some(d)) => Self(Form::Small(Ratio::new_raw(n, d))),
            (Some(_) | None, _) => Self(Form::Big(Box::new(r))),
        }
    }
}

/// The integers that shares are computed in: `u128`, which nearly always is enough and costs no allocation, and
/// `BigInt`, which always is. Everything here answers `None` when the integers are too small.
pub(crate) trait Number:
    Clone + Integer + CheckedAdd + CheckedMul + CheckedSub + From<u64> + ToPrimitive
{
    fn share(ratio: Ratio<Self>) -> Share;
}
impl Number for u128 {
    fn share(ratio: Ratio<Self>) -> Share {
        ratio.into()
    }
}
impl Number for BigInt {
    fn share(ratio: Ratio<Self>) -> Share {
        ratio.into()
    }
}

pub(crate) fn ratio<T: Number>(numer: u64, denom: u64) -> Ratio<T> {
    if denom == 0 { Ratio::zero() } else { Ratio::new(numer.into(), denom.into()) }
}

pub(crate) fn add<T: Number>(a: &Ratio<T>, b: &Ratio<T>) -> Option<Ratio<T>> {
    if a.is_zero() {
        return Some(b.clone());
    }
    if b.is_zero() {
        return Some(a.clone());
    }
    a.checked_add(b)
}

pub(crate) fn mul<T: Number>(a: &Ratio<T>, b: &Ratio<T>) -> Option<Ratio<T>> {
    a.checked_mul(b)
}

/// Integer weights in the proportion of `shares`: exact, in the smallest integers, where their sum fits u32 (the LCM
/// rule), else with an error of less than 1e-7 of the whole. Never 0; a share of 0 gets 1.
pub(crate) fn weights<T: Number>(shares: &[&Ratio<T>]) -> Option<Vec<u32>> {
    let mut common = T::one();
    for share in shares {
        if !common.is_multiple_of(share.denom()) {
            let factor = share.denom().clone() / common.gcd(share.denom());
            common = common.checked_mul(&factor)?;
        }
    }
    let mut divisor = T::zero();
    let mut parts = Vec::with_capacity(shares.len());
    let mut sum = T::zero();
    for share in shares {
        let part = share.numer().checked_mul(&(common.clone() / share.denom().clone()))?;
        sum = sum.checked_add(&part)?;
        if !divisor.is_one() {
            divisor = divisor.gcd(&part);
        }
        parts.push(part);
    }
    if divisor.is_zero() {
        return Some(vec![1; shares.len()]);
    }
    // Shares of 0 are to get 1 each, so they need room.
    let room = u64::from(u32::MAX) - u64::try_from(shares.len()).ok()?.min(u64::from(u32::MAX) / 2);
    if sum.clone() / divisor.clone() > room.into() {
        return rounded(&parts, &sum, room);
    }
    let exact = parts.iter().map(|p| (p.clone() / divisor.clone()).to_u32().map(|w| w.max(1)));
    exact.collect()
}

/// Weights that add up to `room` by the largest remainders, plus 1 for each that would be 0.
fn rounded<T: Number>(parts: &[T], sum: &T, room: u64) -> Option<Vec<u32>> {
    let whole: T = room.into();
    let mut weights = Vec::with_capacity(parts.len());
    let mut remainders = Vec::with_capacity(parts.len());
    let mut given = 0u64;
    for (i, part) in parts.iter().enumerate() {
        let (weight, remainder) = part.checked_mul(&whole)?.div_rem(sum);
        let weight = weight.to_u32()?;
        given += u64::from(weight);
        weights.push(weight);
        remainders.push((remainder, i));
    }
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let left = usize::try_from(room.saturating_sub(given)).ok()?;
    for (_, i) in remainders.into_iter().take(left) {
        if let Some(weight) = weights.get_mut(i) {
            *weight += 1;
        }
    }
    Some(weights.into_iter().map(|w| w.max(1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shares: &[(u64, u64)]) -> Vec<u32> {
        let shares: Vec<Ratio<u128>> = shares.iter().map(|(n, d)| ratio(*n, *d)).collect();
        weights(&shares.iter().collect::<Vec<_>>()).unwrap()
    }

    /// Mutation seen to fail: the division by `divisor` left out; `w.max(1)` left out.
    #[test]
    fn weights_are_the_smallest_integers() {
        assert_eq!(of(&[(1, 6), (1, 3), (1, 2)]), [1, 2, 3]);
        assert_eq!(of(&[(1, 1)]), [1]);
        assert_eq!(of(&[(2, 5), (2, 5), (1, 5)]), [2, 2, 1]);
        assert_eq!(of(&[(2, 5), (2, 5)]), [1, 1], "backups need not add up to 1");
        assert_eq!(of(&[(0, 1), (1, 1)]), [1, 1]);
        assert_eq!(of(&[]), [0u32; 0]);
    }

    /// Mutation seen to fail: `From<BigRational>` always big.
    #[test]
    fn equal_shares_are_equal() {
        let (small, big) = (Share::from(ratio::<u128>(1, 6)), Share::from(ratio::<BigInt>(1, 6)));
        assert_eq!(small, big);
        assert_eq!((small.to_string(), small.exact()), ("1/6".to_owned(), ratio::<BigInt>(1, 6)));
        let large = ratio::<BigInt>(1, u64::MAX) * ratio::<BigInt>(1, u64::MAX) * ratio::<BigInt>(1, u64::MAX);
        assert_eq!(Share::from(large.clone()).exact(), large);
    }

    /// Mutation seen to fail: the largest remainders not given out.
    #[test]
    fn weights_that_do_not_fit_are_rounded() {
        let primes = [4_294_967_291u64, 4_294_967_279, 4_294_967_231];
        let mut shares: Vec<BigRational> = primes.iter().map(|p| ratio::<BigInt>(p / 4, *p)).collect();
        let rest = shares.iter().fold(ratio::<BigInt>(1, 1), |a, s| a - s);
        shares.push(rest - ratio::<BigInt>(1, u64::MAX));
        shares.push(ratio::<BigInt>(1, u64::MAX));
        let weights = weights(&shares.iter().collect::<Vec<_>>()).unwrap();
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        // One place is kept free for each, and the smallest takes one.
        assert_eq!(sum, u64::from(u32::MAX) - 4);
        for (weight, share) in weights.iter().zip(&shares) {
            let got = ratio::<BigInt>((*weight).into(), sum);
            let error = (got - share).to_f64().unwrap().abs();
            assert!(*weight > 0 && error < 1e-9, "{weight} {share} {error}");
        }
    }
}
