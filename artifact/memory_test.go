package artifact_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/ration"
)

// Uploads wait for their turn, for a while; what was accepted before waits for
// as long as it takes. Who sends slowly takes nothing from the others.
func TestUploadsWaitForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(time.Now)
		body := Tar(app)
		memory := ration.New(0, 64<<20)
		limits := artifact.Limits{Memory: memory}
		send := func(ctx context.Context, body io.Reader) error {
			_, err := artifact.Receive(ctx, store, artifact.Upload{Kind: miosa.KindRootFS, Body: body}, limits)
			return err
		}
		slow, rest := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- send(t.Context(), slow) }()
		if _, err := rest.Write(body[:700]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := send(t.Context(), bytes.NewReader(body)); err != nil {
			t.Errorf("beside one that is slow: %v", err)
		}

		other, err := memory.Take(t.Context(), ration.Terms{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = send(t.Context(), bytes.NewReader(body))
		if took := time.Since(began); miosa.CodeOf(err) != miosa.Limited || took != time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
		go func() {
			_, err := rest.Write(body[700:])
			if err == nil {
				err = rest.Close()
			}
			if err != nil {
				t.Error(err)
			}
		}()
		built := make(chan error, 1)
		go func() {
			u, err := artifact.Unpack(t.Context(), store, Digest(body), miosa.KindRootFS, limits, nil)
			u.Close()
			built <- err
		}()
		<-time.After(30 * time.Second) // virtual
		synctest.Wait()
		other.Release()
		if err := <-ended; err != nil {
			t.Errorf("the slow one: %v", err)
		}
		if err := <-built; err != nil {
			t.Errorf("one that was accepted before: %v", err)
		}
		if now, _ := memory.Held(); now != 0 {
			t.Errorf("%d bytes held in the end", now)
		}
	})
}

// A patient upload that finds all the memory taken is written once, and waits for
// hours.
func TestAPatientUploadWaitsForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := ration.New(0, 64<<20)
		other, err := memory.Take(t.Context(), ration.Terms{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(3*time.Hour, other.Release)
		began := time.Now()
		_, err = artifact.Receive(t.Context(), NewMemory(time.Now), artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(Tar(app)), Patient: true}, artifact.Limits{Memory: memory})
		if took := time.Since(began); err != nil || took != 3*time.Hour {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
