//! Where the next attempt goes. Pure.
//!
//! A session lives at one gateway instance. It is looked for where that instance says it is reached, then at the address it
//! last had, then at the endpoints in turn. In a hurry every other attempt goes to the likeliest place, or a search
//! through sixteen endpoints would miss the moment in which the network returns.

use std::time::Instant;

use super::interface::Place;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// Any gateway, for a new session.
    New,
    /// The instance that has the session.
    Session,
    /// The same on purpose, with the old connection at hand: the last address is where it is now.
    Move,
    /// Whoever is where the name of this endpoint leads now.
    Follow(usize),
}

#[derive(Debug, Clone, Copy, Default)]
struct Spot {
    /// It said `busy`, or that it will not have us.
    held_until: Option<Instant>,
    /// It answered, and the session is not there, or nobody is.
    rejected: bool,
}

#[derive(Debug)]
pub(super) struct Places {
    endpoints: Vec<Spot>,
    last: Spot,
    /// `None`: the gateway told none.
    advertise: Option<Spot>,
    /// Which place the session's last connection was dialled at: `Last` by another name.
    origin: Option<Place>,
    cursor: usize,
    /// Where the last attempt of this search went.
    previous: Option<Place>,
}

impl Places {
    pub(super) fn new(endpoints: usize) -> Self {
        Self {
            endpoints: vec![Spot::default(); endpoints],
            last: Spot::default(),
            advertise: None,
            origin: None,
            cursor: 0,
            previous: None,
        }
    }

    /// The list was edited; what was known of the old one says nothing of the new.
    pub(super) fn set_endpoints(&mut self, endpoints: usize) {
        if self.endpoints.len() != endpoints {
            self.endpoints = vec![Spot::default(); endpoints];
            self.origin = self.origin.filter(|place| *place == Place::Advertise);
        }
    }

    /// The session has a connection, dialled at `place`.
    pub(super) fn settled(&mut self, place: Place, advertise: bool) {
        self.advertise = match (advertise, self.advertise) {
            (true, None) => Some(Spot::default()),
            (told, known) => known.filter(|_| told),
        };
        let all = self.endpoints.iter_mut().chain([&mut self.last]).chain(&mut self.advertise);
        all.for_each(|spot| spot.rejected = false);
        self.begin();
        if place != Place::Last {
            self.origin = Some(place);
        }
    }

    /// An operator asks: every place may be dialled, from the first.
    pub(super) fn forget(&mut self) {
        self.endpoints.fill(Spot::default());
        self.last = Spot::default();
        self.advertise = self.advertise.map(|_| Spot::default());
        self.begin();
    }

    /// A new search starts at the best place.
    pub(super) fn begin(&mut self) {
        self.begin_round();
        self.previous = None;
    }

    /// So does a new round of one.
    pub(super) fn begin_round(&mut self) {
        self.cursor = 0;
    }

    /// Not there before `until`.
    pub(super) fn hold(&mut self, place: Place, until: Instant) {
        for place in [Some(place), self.alias(place)].into_iter().flatten() {
            if let Some(spot) = self.spot(place) {
                spot.held_until = Some(spot.held_until.map_or(until, |held| held.max(until)));
            }
        }
    }

    pub(super) fn reject(&mut self, place: Place) {
        if let Some(spot) = self.spot(place) {
            spot.rejected = true;
        }
    }

    /// Whether this round has nowhere left to go.
    pub(super) fn round_is_over(&self, search: Search, now: Instant) -> bool {
        self.order(search).iter().skip(self.cursor).all(|place| self.is_held(*place, now))
    }

    /// When some place may be dialled; `None`: now.
    pub(super) fn held_until(&self, search: Search, now: Instant) -> Option<Instant> {
        let order = self.order(search);
        if order.iter().any(|place| !self.is_held(*place, now)) {
            return None;
        }
        order.iter().filter_map(|place| self.peek(*place)?.held_until).min()
    }

    /// Where to dial now. `None` when there is no endpoint, or all are held.
    pub(super) fn next(&mut self, search: Search, hurried: bool, now: Instant) -> Option<Place> {
        let order = self.order(search);
        let mut likeliest = None;
        if hurried && search != Search::New {
            likeliest = self.likeliest(&order, now);
            if likeliest.is_some() && likeliest != self.previous {
                self.previous = likeliest;
                if order.get(self.cursor % order.len()).copied() == likeliest {
                    self.cursor += 1; // or its turn would come right after
                }
                return likeliest;
            }
        }
        let turn = (0..order.len()).map(|step| (self.cursor + step) % order.len());
        let free: Vec<usize> =
            turn.filter(|at| order.get(*at).is_some_and(|place| !self.is_held(*place, now))).collect();
        // The likeliest has just had its attempt; again only if there is nothing else.
        let at = *free.iter().find(|at| order.get(**at).copied() != likeliest).or(free.first())?;
        self.cursor = at + 1;
        self.previous = order.get(at).copied();
        self.previous
    }

    fn likeliest(&self, order: &[Place], now: Instant) -> Option<Place> {
        let usable = |place: &&Place| !self.is_held(**place, now) && !self.peek(**place).is_some_and(|s| s.rejected);
        order.iter().filter(|place| matches!(place, Place::Advertise | Place::Last)).find(usable).copied()
    }

    fn order(&self, search: Search) -> Vec<Place> {
        if let Search::Follow(endpoint) = search {
            return vec![Place::Endpoint(endpoint)];
        }
        let advertise = self.advertise.filter(|_| search != Search::New).map(|_| Place::Advertise);
        let last = (search == Search::Session).then_some(Place::Last);
        let endpoints = (0..self.endpoints.len()).map(Place::Endpoint);
        advertise.into_iter().chain(last).chain(endpoints).collect()
    }

    fn alias(&self, place: Place) -> Option<Place> {
        if place == Place::Last { self.origin } else { (self.origin == Some(place)).then_some(Place::Last) }
    }

    fn is_held(&self, place: Place, now: Instant) -> bool {
        self.peek(place).is_some_and(|spot| spot.held_until.is_some_and(|until| now < until))
    }

    fn peek(&self, place: Place) -> Option<&Spot> {
        match place {
            Place::Advertise => self.advertise.as_ref(),
            Place::Last => Some(&self.last),
            Place::Endpoint(index) => self.endpoints.get(index),
        }
    }

    fn spot(&mut self, place: Place) -> Option<&mut Spot> {
        match place {
            Place::Advertise => self.advertise.as_mut(),
            Place::Last => Some(&mut self.last),
            Place::Endpoint(index) => self.endpoints.get_mut(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use Place::*;

    fn take(places: &mut Places, search: Search, hurried: bool, count: usize) -> Vec<Place> {
        let now = Instant::now();
        (0..count).filter_map(|_| places.next(search, hurried, now)).collect()
    }

    #[test]
    fn a_session_is_looked_for_where_it_is_reached_then_where_it_was_then_everywhere() {
        let mut places = Places::new(2);
        places.settled(Endpoint(1), true);
        assert_eq!(
            take(&mut places, Search::Session, false, 5),
            [Advertise, Last, Endpoint(0), Endpoint(1), Advertise]
        );
        places.settled(Endpoint(1), false);
        assert_eq!(take(&mut places, Search::Session, false, 3), [Last, Endpoint(0), Endpoint(1)]);
    }

    #[test]
    fn in_a_hurry_every_other_attempt_goes_to_the_likeliest_place() {
        let mut places = Places::new(2);
        places.settled(Endpoint(0), true);
        let order = [Advertise, Last, Advertise, Endpoint(0), Advertise, Endpoint(1), Advertise, Last];
        assert_eq!(take(&mut places, Search::Session, true, 8), order);
        places.begin();
        places.reject(Advertise);
        assert_eq!(take(&mut places, Search::Session, true, 4), [Last, Advertise, Last, Endpoint(0)]);
        places.reject(Last);
        places.begin();
        let order = [Advertise, Last, Endpoint(0), Endpoint(1)];
        assert_eq!(take(&mut places, Search::Session, true, 4), order, "none is likelier than another");
    }

    #[test]
    fn a_move_avoids_the_address_it_leads_away_from_and_a_new_session_knows_only_endpoints() {
        let mut places = Places::new(1);
        places.settled(Endpoint(0), true);
        assert_eq!(take(&mut places, Search::Move, false, 3), [Advertise, Endpoint(0), Advertise]);
        assert_eq!(take(&mut places, Search::New, false, 2), [Endpoint(0), Endpoint(0)]);
        assert_eq!(take(&mut Places::new(0), Search::New, true, 2), []);
    }

    #[test]
    fn a_held_place_is_left_out_under_its_other_name_too() {
        let now = Instant::now();
        let later = now + Duration::from_secs(9);
        let mut places = Places::new(2);
        places.settled(Endpoint(0), false);
        places.hold(Last, later);
        assert_eq!(take(&mut places, Search::Session, true, 2), [Endpoint(1), Endpoint(1)]);
        assert_eq!(places.held_until(Search::Session, now), None);
        places.hold(Endpoint(1), now + Duration::from_secs(2));
        assert_eq!(places.held_until(Search::Session, now), Some(now + Duration::from_secs(2)));
        assert_eq!(places.next(Search::Session, true, now), None);
        assert!(places.round_is_over(Search::Session, now));
        places.begin();
        assert_eq!(places.next(Search::Session, true, later), Some(Last));
    }
}
