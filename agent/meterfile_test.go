package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/miosa/miosa/metering"
)

// Meters are read as former binaries wrote them, and written so: a field that has
// another name in the code has the same one in the file.
func TestMetersFileKeepsItsShape(t *testing.T) {
	amount := func(n uint64) metering.Amount {
		return metering.Amount{
			RunMS: n, VCPUMS: n + 1, MemoryMBMS: n + 2, DiskMBMS: n + 3, SentBytes: n + 4, ReceivedBytes: n + 5,
			LogLines: n + 6, LogBytes: n + 7, StorageByteHours: n + 8,
		}
	}
	meter := metering.Meter{
		Epoch: 3, Hour: 500_000, Total: amount(100), Closed: []metering.Point{{Hour: 499_999, Total: amount(50)}}, Final: true,
		Acknowledged: amount(10), Known: true, Host: "boot-1", Clock: 90 * time.Minute, VM: "ri_a-1",
		Size: metering.Size{VCPUs: 2, MemoryMB: 512, DiskMB: 1024}, Counter: "tap-7", Sent: 77, Received: 88,
	}
	full(t, reflect.ValueOf(meter), "Meter")
	want := meterEntry{Instance: "ri_a", Meter: &meter, Epoch: 3}
	written, err := appendMeterEntry(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "meters")
	if *updateGolden {
		if err := os.WriteFile(golden, written, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	former, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, former) {
		t.Errorf("written is\n%s\nwant\n%s", written, former)
	}
	if got, ok := parseMeterEntry(former); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("read is %+v, %t", got, ok)
	}
}
