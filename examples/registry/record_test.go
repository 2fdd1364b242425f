package main

import (
	"encoding/hex"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTurns(t *testing.T) {
	var s staker
	for i := range 3 * windowTurns {
		s.turn(i%3 == 0)
	}
	missed := 0
	for i := range windowTurns { // the bits are those of the last turns
		turn := 2*windowTurns + i
		bit := s.Turns[i/8]>>(i%8)&1 == 1
		if bit != (turn%3 == 0) {
			t.Fatalf("turn %d: missed %v", turn, bit)
		}
		if bit {
			missed++
		}
	}
	if s.Missed != windowTurns || s.Produced != 2*windowTurns || missed != windowTurns/3+1 && missed != windowTurns/3 {
		t.Fatalf("%d missed, %d produced, %d bits", s.Missed, s.Produced, missed)
	}
}

// The bytes on disk are fixed: all numbers have 64 bits and one order.
func TestRecordGolden(t *testing.T) {
	b := block{Height: 1, Prev: hash{2}, Slot: 3, Staker: 4, Ops: []op{{Kind: opRegister, Staker: 5, From: 6, To: 7, Amount: 8, Name: "ab"}}}
	row := blockRow{Hash: hash{9}, Supply: 10, Reward: 11, Block: b}
	const want = "0900000000000000000000000000000000000000000000000000000000000000" + "000000000000000a" + "000000000000000b" +
		"0000000000000001" + "0200000000000000000000000000000000000000000000000000000000000000" + "0000000000000003" + "0000000000000004" +
		"0000000000000001" + "0000000000000002" + "0000000000000005" + "0000000000000006" + "0000000000000007" + "0000000000000008" +
		"0000000000000002" + "6162"
	if got := hex.EncodeToString(row.encode()); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	st := state{Genesis: -1, SlotTime: 2, Founders: 3, Slot: 1 << 63, Filled: true, Height: 5, Hash: hash{31: 6}, Supply: 7, Stakers: 8, Digest: digest{3: 9}}
	s := staker{Owner: 1, Delegate: 2, Share: 3, Produced: 4, Missed: 5, Name: "name"}
	s.Turns[511] = 0xff
	got, err := decodeState(st.encode())
	if diff := cmp.Diff(st, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	gotStaker, err := decodeStaker(s.encode())
	if diff := cmp.Diff(s, gotStaker); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	gotRow, err := decodeBlockRow(row.encode())
	if diff := cmp.Diff(row, gotRow); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	for _, enc := range [][]byte{st.encode(), s.encode(), row.encode()} {
		for _, bad := range [][]byte{nil, enc[:len(enc)-1], append(slices.Clone(enc), 0)} {
			_, err1 := decodeState(bad)
			_, err2 := decodeStaker(bad)
			_, err3 := decodeBlockRow(bad)
			if err1 == nil || err2 == nil || err3 == nil {
				t.Fatalf("%d bytes decode: %v, %v, %v", len(bad), err1, err2, err3)
			}
		}
	}
}
