package main

import (
	"errors"
	"fmt"
	"math"

	"github.com/sakerdb/saker/engine"
)

// Why a block is refused. Nothing of a refused block remains.
var (
	errKnown    = errors.New("block is known")
	errHeight   = errors.New("block is not the next one")
	errPrev     = errors.New("block does not follow the newest one")
	errEarly    = errors.New("slot has not begun")
	errLate     = errors.New("slot is over")
	errFilled   = errors.New("slot has its block")
	errTurn     = errors.New("not the turn of this staker")
	errOp       = errors.New("operation is not possible")
	errTooLarge = errors.New("too many operations")
)

var refusals = []error{errKnown, errHeight, errPrev, errEarly, errLate, errFilled, errTurn, errOp, errTooLarge}

// refused reports whether err says that a block was refused, and nothing worse.
func refused(err error) bool {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

// table names one of the registry's tables.
type table int

const (
	stateTable table = iota
	stakerTable
	nameTable
	accountTable
	blockTable
	tableCount
)

var tableNames = [tableCount]string{"state", "stakers", "names", "accounts", "blocks"}

var stateKey = []byte("state")

// records is what a change reads and writes: a transaction of the store, or
// memory for an audit. get returns engine.ErrNotFound for what is absent.
type records interface {
	get(t table, key []byte) ([]byte, error)
	put(t table, key, value []byte) error
}

// change is one change of the registry in the making. It writes as it goes; who
// made it rolls everything back when it fails.
type change struct {
	r  records
	st state
}

// put writes a record of the registry and keeps the digest.
func (c *change) put(t table, key, value []byte) error {
	old, err := c.r.get(t, key)
	switch {
	case err == nil:
		c.st.Digest.remove(recordSum(t, key, old))
	case !errors.Is(err, engine.ErrNotFound):
		return err
	}
	c.st.Digest.add(recordSum(t, key, value))
	return c.r.put(t, key, value)
}

// end writes the state record, the last step of each change.
func (c *change) end() error { return c.r.put(stateTable, stateKey, c.st.encode()) }

// genesis makes the records of a registry that has no block yet.
func (c *change) genesis() error {
	c.st.Filled = true // slot 0 has the genesis
	if err := c.pay(treasury, genesisSupply); err != nil {
		return err
	}
	c.st.Supply = genesisSupply
	for i := range c.st.Founders {
		o := op{Kind: opRegister, From: 1000 + i, To: 2000 + i, Amount: 400, Name: fmt.Sprintf("staker-%02d", i+1)}
		if err := c.register(&o); err != nil {
			return err
		}
	}
	return c.end()
}

const (
	treasury      = 1
	genesisSupply = 1_000_000_000_000 // a million, in millionths
	rewardPart    = 2_000_000         // a block earns one part in so many of the supply
)

// turnOf returns whose turn a slot is, given how many stakers there are.
func turnOf(slot, stakers uint64) uint64 {
	x := slot * 0x9e3779b97f4a7c15 // spread: neighbours take no turns in a row
	x ^= x >> 32
	return 1 + x%stakers
}

// advance ends slots until the current one is slot, but limit of them at most.
func (c *change) advance(slot uint64, limit int) error {
	for ; c.st.Slot < slot && limit > 0; limit-- {
		if !c.st.Filled {
			if err := c.turn(turnOf(c.st.Slot, c.st.Stakers), true); err != nil {
				return err
			}
		}
		c.st.Slot++
		c.st.Filled = false
	}
	return c.end()
}

func (c *change) turn(id uint64, missed bool) error {
	s, err := c.staker(id)
	if err != nil {
		return err
	}
	s.turn(missed)
	return c.put(stakerTable, key64(id), s.encode())
}

// validate judges a block by the state as it is now.
func (c *change) validate(b *block, h hash) error {
	st := &c.st
	switch {
	case h == st.Hash:
		return errKnown
	case b.Height != st.Height+1:
		return fmt.Errorf("%w: height %d after %d", errHeight, b.Height, st.Height)
	case b.Prev != st.Hash:
		return errPrev
	case b.Slot > st.Slot:
		return fmt.Errorf("%w: slot %d in slot %d", errEarly, b.Slot, st.Slot)
	case b.Slot < st.Slot:
		return fmt.Errorf("%w: slot %d in slot %d", errLate, b.Slot, st.Slot)
	case st.Filled:
		return errFilled
	case b.Staker != turnOf(b.Slot, st.Stakers):
		return errTurn
	case len(b.Ops) > operations:
		return errTooLarge
	}
	return nil
}

// apply makes all changes of a valid block: operations, reward, turn, block index,
// newest block. If it fails, what it wrote so far must be rolled back.
func (c *change) apply(b *block, h hash) error {
	for i := range b.Ops {
		if err := c.operate(&b.Ops[i]); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
	}
	reward := c.st.Supply / rewardPart
	s, err := c.staker(b.Staker)
	if err != nil {
		return err
	}
	delegate := reward * s.Share / shareWhole
	if err := c.pay(s.Owner, reward-delegate); err != nil {
		return err
	}
	if err := c.pay(s.Delegate, delegate); err != nil {
		return err
	}
	if err := c.turn(b.Staker, false); err != nil {
		return err
	}
	c.st.Supply += reward
	row := blockRow{Hash: h, Supply: c.st.Supply, Reward: reward, Block: *b}
	if err := c.r.put(blockTable, key64(b.Height), row.encode()); err != nil {
		return err
	}
	c.st.Height, c.st.Hash, c.st.Filled = b.Height, h, true
	return c.end()
}

func (c *change) operate(o *op) error {
	switch o.Kind {
	case opTransfer:
		if err := c.take(o.From, o.Amount); err != nil {
			return err
		}
		return c.pay(o.To, o.Amount)
	case opRegister:
		return c.register(o)
	case opSetShare:
		return c.setShare(o)
	default:
		return fmt.Errorf("%w: kind %d", errOp, o.Kind)
	}
}

// register adds a staker; the name must be free.
func (c *change) register(o *op) error {
	if o.Name == "" || len(o.Name) > nameSizeMax || o.Amount > shareWhole {
		return fmt.Errorf("%w: bad registration", errOp)
	}
	switch _, err := c.r.get(nameTable, []byte(o.Name)); {
	case err == nil:
		return fmt.Errorf("%w: name %q is taken", errOp, o.Name)
	case !errors.Is(err, engine.ErrNotFound):
		return err
	}
	c.st.Stakers++
	id := key64(c.st.Stakers)
	if err := c.put(nameTable, []byte(o.Name), id); err != nil {
		return err
	}
	s := staker{Owner: o.From, Delegate: o.To, Share: o.Amount, Name: o.Name}
	return c.put(stakerTable, id, s.encode())
}

func (c *change) setShare(o *op) error {
	if o.Amount > shareWhole || o.Staker == 0 || o.Staker > c.st.Stakers {
		return fmt.Errorf("%w: bad share", errOp)
	}
	s, err := c.staker(o.Staker)
	if err != nil {
		return err
	}
	s.Delegate, s.Share = o.To, o.Amount
	return c.put(stakerTable, key64(o.Staker), s.encode())
}

func (c *change) staker(id uint64) (staker, error) {
	b, err := c.r.get(stakerTable, key64(id))
	if err != nil {
		return staker{}, fmt.Errorf("registry: staker %d: %w", id, err)
	}
	return decodeStaker(b)
}

func (c *change) balance(account uint64) (uint64, error) {
	b, err := c.r.get(accountTable, key64(account))
	if errors.Is(err, engine.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return decodeNumber(b)
}

func (c *change) pay(account, amount uint64) error {
	has, err := c.balance(account)
	if err != nil {
		return err
	}
	if amount > math.MaxUint64-has {
		return fmt.Errorf("%w: balance overflows", errOp)
	}
	return c.put(accountTable, key64(account), key64(has+amount))
}

func (c *change) take(account, amount uint64) error {
	has, err := c.balance(account)
	if err != nil {
		return err
	}
	if has < amount {
		return fmt.Errorf("%w: account %d has %d, not %d", errOp, account, has, amount)
	}
	return c.put(accountTable, key64(account), key64(has-amount))
}
