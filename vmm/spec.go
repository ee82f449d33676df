package vmm

import (
	"path"
	"regexp"

	"github.com/miosa/miosa"
)

// What every driver can do.
const (
	MaxVCPUs    = 32
	MinMemoryMB = 64
	MaxMemoryMB = 1 << 20
)

// idPattern: an ID becomes part of paths and command lines.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// macPattern: an even first byte, which is no group address.
var macPattern = regexp.MustCompile(`^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$`)

// ValidID reports whether id can name a VM: 1 to 64 letters, digits, '_',
// '-' and '.', beginning with a letter or digit.
func ValidID(id string) bool { return idPattern.MatchString(id) }

// Check says what is wrong with a spec that no driver could start:
// miosa.Invalid, or nil.
func (s Spec) Check() error {
	bad := func(format string, args ...any) error {
		return miosa.Errorf(miosa.Invalid, "vm "+s.ID+": "+format, args...)
	}
	if !ValidID(s.ID) {
		return miosa.Errorf(miosa.Invalid, "%q cannot be the id of a vm: 1 to 64 letters, digits, '_', '-' and '.' can", s.ID)
	}
	switch nic := s.NIC; {
	case s.VCPUs < 1 || s.VCPUs > MaxVCPUs:
		return bad("%d vCPUs; 1 to %d are possible", s.VCPUs, MaxVCPUs)
	case s.MemoryMB < MinMemoryMB || s.MemoryMB > MaxMemoryMB:
		return bad("%d MB of memory; %d to %d are possible", s.MemoryMB, MinMemoryMB, MaxMemoryMB)
	case !path.IsAbs(s.BaseDisk) || !path.IsAbs(s.DataDisk) || s.DataOrigin != "" && !path.IsAbs(s.DataOrigin):
		return bad("the paths of its disks are not absolute")
	case s.UID < 0:
		return bad("uid %d is negative", s.UID)
	case s.CPUShares < 0:
		return bad("%d CPU shares are negative", s.CPUShares)
	case !macPattern.MatchString(nic.MAC):
		return bad("MAC %q is not six bytes of a single host's address", nic.MAC)
	case nic.Tap == "" && nic.Forward.IsValid() && (nic.GuestPort < 1 || nic.GuestPort > 65535 || !nic.Guest.IsValid()):
		return bad("a forwarded port needs the guest's address and port")
	}
	return nil
}
