package main

import (
	"encoding/binary"
	"fmt"
)

// A row: count of elements, the elements, padding that repeats a byte of the last
// one, so that rows are of many sizes and a row put together from two is noticed.
//
//	├ 2 ┼ 4 · count ┼ padding ┤

// encode appends the row of a list that is not empty.
func encode(dst []byte, list []int32, padding int) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(list)))
	for _, v := range list {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(v))
	}
	for range padding {
		dst = append(dst, byte(list[len(list)-1]))
	}
	return dst
}

// decode returns the list of a row.
func decode(row []byte) ([]int32, error) {
	if len(row) < 2 {
		return nil, fmt.Errorf("row of %d bytes", len(row))
	}
	n := int(binary.LittleEndian.Uint16(row))
	row = row[2:]
	if n == 0 || len(row) < 4*n {
		return nil, fmt.Errorf("row with %d elements in %d bytes", n, len(row))
	}
	list := make([]int32, n)
	for i := range list {
		list[i] = int32(binary.LittleEndian.Uint32(row[4*i:]))
	}
	for _, b := range row[4*n:] {
		if b != byte(list[n-1]) {
			return nil, fmt.Errorf("row %v has padding of another", list)
		}
	}
	return list, nil
}
