package tablespace

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
)

// blockAt finds the offset of a damaged block in what Pebble says of it.
var blockAt = regexp.MustCompile(`block (\d+)/\d+`)

// mapError returns an error of Pebble as the rest of the store knows it: damaged
// or missing files are corruption, all else is what the disk said.
func (s *Space) mapError(what string, err error) error {
	if !pebble.IsCorruptionError(err) && !oserror.IsNotExist(err) {
		return fmt.Errorf("saker: %s: %w", what, err)
	}
	why, _, _ := strings.Cut(err.Error(), "\n")
	ce := &base.CorruptionError{File: s.o.FS.PathJoin(s.o.Dir, mapDirName), Why: what + ": " + why}
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		ce.File = info.Path
	}
	if m := blockAt.FindStringSubmatch(why); m != nil {
		ce.Offset, _ = strconv.ParseInt(m[1], 10, 64) // digits, and few
	}
	return ce
}
