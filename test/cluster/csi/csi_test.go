package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSizes(t *testing.T) {
	for _, one := range []struct {
		asked, told int64
		made        int
	}{
		{1 << 30, 10 << 30, 10},
		{10 << 30, 10 << 30, 10},
		{25 << 29, 25 << 29, 12},
		{15_000_000_000, 15_000_000_000, 13},
	} {
		told, made := sizeOf(&csi.CapacityRange{RequiredBytes: one.asked})
		if told != one.told || made != one.made {
			t.Errorf("%d: told %d, made %d GiB; not %d, %d", one.asked, told, made, one.told, one.made)
		}
	}
}

func TestHandles(t *testing.T) {
	for handle, wanted := range map[string]int{"12-pvc-0123456789abcdef": 12, "7-a": 7, "7-": 0, "x-a": 0, "-7-a": 0, "7": 0, "": 0, "99999999999999999999-a": 0} {
		id, err := idOf(handle)
		if id != wanted || (err == nil) != (wanted != 0) {
			t.Errorf("%q: %d, %v", handle, id, err)
		}
	}
	claim := &core.PersistentVolumeClaim{ObjectMeta: meta.ObjectMeta{UID: "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"}}
	if name := volumeNameOf(claim); name != "pvc-0a1b2c3d4e5f6071" || labelOf(name) != name {
		t.Error(name)
	}
}

func TestFinalizersAndDeletion(t *testing.T) {
	const protection = "kubernetes.io/pv-protection"
	now := meta.Now()
	for name, one := range map[string]struct {
		policy  core.PersistentVolumeReclaimPolicy
		phase   core.PersistentVolumePhase
		deleted *meta.Time
		has     []string
		wanted  []string
		remove  bool
	}{
		"bound under Delete is held":                 {core.PersistentVolumeReclaimDelete, core.VolumeBound, nil, []string{protection}, []string{protection, finalizer}, false},
		"Retain lets go, whatever the phase":         {core.PersistentVolumeReclaimRetain, core.VolumeBound, nil, []string{protection, finalizer}, []string{protection}, false},
		"released under Retain stays":                {core.PersistentVolumeReclaimRetain, core.VolumeReleased, nil, nil, nil, false},
		"released under Delete goes":                 {core.PersistentVolumeReclaimDelete, core.VolumeReleased, nil, []string{finalizer}, []string{finalizer}, true},
		"the object was deleted before":              {core.PersistentVolumeReclaimDelete, core.VolumeReleased, &now, []string{finalizer}, []string{finalizer}, true},
		"deleted, and its volume gone or not held":   {core.PersistentVolumeReclaimDelete, core.VolumeReleased, &now, []string{protection}, []string{protection}, false},
		"bound and deleted waits for its claim":      {core.PersistentVolumeReclaimDelete, core.VolumeBound, &now, []string{protection, finalizer}, []string{protection, finalizer}, false},
		"available under Delete was never anybody's": {core.PersistentVolumeReclaimDelete, core.VolumeAvailable, nil, nil, nil, false},
	} {
		volume := &core.PersistentVolume{
			ObjectMeta: meta.ObjectMeta{Finalizers: one.has, DeletionTimestamp: one.deleted},
			Spec:       core.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: one.policy},
			Status:     core.PersistentVolumeStatus{Phase: one.phase},
		}
		if got := finalizersOf(volume); !slices.Equal(got, one.wanted) {
			t.Errorf("%s: finalizers %v", name, got)
		}
		if got := isToDelete(volume); got != one.remove {
			t.Errorf("%s: to be deleted: %v", name, got)
		}
	}
	foreign := &core.PersistentVolume{Spec: core.PersistentVolumeSpec{PersistentVolumeSource: core.PersistentVolumeSource{CSI: &core.CSIPersistentVolumeSource{Driver: driverName}}}}
	if !isOurs(foreign) {
		t.Error("a volume made by hand is the driver's")
	}
	foreign.Annotations = map[string]string{provisionedBy: "another.example"}
	if isOurs(foreign) {
		t.Error("a volume of another provisioner is not ours")
	}
}

func TestParseMounts(t *testing.T) {
	found := parseMounts("36 35 7:3 / /mnt/with\\040space rw,noatime shared:1 master:2 - ext4 /dev/loop3 rw\n" +
		"37 35 7:3 /pgdata /other rw - ext4 /dev/loop3 rw\nnonsense\n")
	wanted := []mountPoint{{"7:3", "/", "/mnt/with space", "/dev/loop3"}, {"7:3", "/pgdata", "/other", "/dev/loop3"}}
	if !slices.Equal(found, wanted) {
		t.Errorf("%+v", found)
	}
}

// A volume from its first mount to its growth, with the kernel's own file systems.
func TestMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	ctx := t.Context()
	here := 40
	shown := volume{ID: 5, Label: "pvc-x", Status: "active", Size: 10, FilesystemPath: "/dev/x"}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(shown)
	}))
	defer api.Close()
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "5", "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{api: &linode{url: api.URL}, volumes: folder, linodeID: here}
	staging, first, second := filepath.Join(folder, "staging"), filepath.Join(folder, "first"), filepath.Join(folder, "second")
	capability := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
	}
	stage := func() error {
		_, err := n.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: "5-pvc-x", StagingTargetPath: staging, VolumeCapability: capability})
		return err
	}
	publish := func(target string) error {
		_, err := n.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: "5-pvc-x", StagingTargetPath: staging, TargetPath: target, VolumeCapability: capability})
		return err
	}
	release := func() error {
		for _, one := range []string{second, first} {
			if _, err := n.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{TargetPath: one}); err != nil {
				return err
			}
		}
		_, err := n.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{StagingTargetPath: staging})
		return err
	}
	defer release()
	if stage() == nil {
		t.Fatal("a volume that is attached nowhere was mounted")
	}
	shown.LinodeID = &here
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(stage())
	must(stage())
	must(publish(first))
	must(publish(first))
	if publish(second) == nil {
		t.Fatal("a volume for one pod was given to two")
	}
	must(os.WriteFile(filepath.Join(first, "kept"), []byte("data"), 0o600))
	before := sizeAt(t, n, first)
	if before > 10<<30 || before < 9<<30 {
		t.Fatalf("a volume of 10 GiB has room for %d bytes", before)
	}
	filled, err := os.Create(filepath.Join(first, "filled"))
	must(err)
	defer filled.Close()
	if err := syscall.Fallocate(int(filled.Fd()), 0, 0, 11<<30); err != syscall.ENOSPC {
		t.Fatalf("11 GiB fit on 10: %v", err)
	}
	must(filled.Close())
	must(os.Remove(filled.Name()))
	shown.Size = 20
	_, err = n.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: "5-pvc-x", VolumePath: staging, VolumeCapability: capability})
	if mayGrowMounted(t) {
		must(err)
		if after := sizeAt(t, n, first); after < before+9<<30 {
			t.Fatalf("it grew from %d to %d bytes", before, after)
		}
	} else if status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("without the right to grow it: %v", err)
	}
	must(release())
	must(release())

	shown.Size = 30
	must(stage())
	must(publish(second))
	if kept, err := os.ReadFile(filepath.Join(second, "kept")); string(kept) != "data" {
		t.Fatalf("its data: %q, %v", kept, err)
	}
	if after := sizeAt(t, n, second); after < 28<<30 {
		t.Fatalf("a volume that grew while it was detached has %d bytes", after)
	}
	must(release())
	image, err := os.Stat(filepath.Join(folder, "5", "data", "disk.img"))
	must(err)
	if used := image.Sys().(*syscall.Stat_t).Blocks * 512; used > 300<<20 {
		t.Fatalf("an empty volume takes %s of the machine", fmt.Sprint(used))
	}
}

// mayGrowMounted: CAP_SYS_RESOURCE is capability 24.
func mayGrowMounted(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "CapEff:")
	line, _, _ := strings.Cut(after, "\n")
	effective, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return effective&(1<<24) != 0
}

func sizeAt(t *testing.T, n *node, path string) int64 {
	t.Helper()
	stats, err := n.NodeGetVolumeStats(context.Background(), &csi.NodeGetVolumeStatsRequest{VolumePath: path})
	if err != nil {
		t.Fatal(err)
	}
	return stats.Usage[0].Total
}
