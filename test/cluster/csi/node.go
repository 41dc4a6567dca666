package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// node formats and mounts the volumes that are attached to this Linode.
type node struct {
	csi.UnimplementedNodeServer
	api      *linode
	volumes  string
	linodeID int
	region   string
	// One call at a time, as in Linode's driver.
	mutex sync.Mutex
}

// device gives the file that stands for the volume's block device, as large as the volume is now. It is there only while
// the volume is attached here, as a device that is hot-plugged.
func (n *node) device(ctx context.Context, handle string) (string, error) {
	id, err := idOf(handle)
	if err != nil {
		return "", err
	}
	found, err := n.api.get(ctx, id)
	if err != nil {
		return "", internal("get", id, err)
	}
	if !found.isOn(n.linodeID) {
		return "", status.Errorf(codes.Internal, "Unable to find device path out of attempted paths: [%s]", found.FilesystemPath)
	}
	image := filepath.Join(n.volumes, strconv.Itoa(id), "data", "disk.img")
	file, err := os.OpenFile(image, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", status.Error(codes.Internal, err.Error())
	}
	defer file.Close()
	size := int64(found.Size) << 30
	info, err := file.Stat()
	if err == nil && info.Size() < size {
		err = file.Truncate(size)
	}
	if err != nil {
		return "", status.Error(codes.Internal, err.Error())
	}
	return image, nil
}

func (n *node) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	target := req.GetStagingTargetPath()
	if target == "" || req.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "staging target path and volume capability are required")
	}
	if kind := req.GetVolumeCapability().GetMount().GetFsType(); kind != "" && kind != "ext4" {
		return nil, status.Errorf(codes.InvalidArgument, "file system %q: only ext4 is part of this driver", kind)
	}
	image, err := n.device(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	mounted, err := mountAt(target)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if mounted == nil {
		if err := prepare(ctx, image); err != nil {
			return nil, status.Errorf(codes.Internal, "prepare %s: %v", image, err)
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		// The kernel would fill the sparse file with a new file system's inode tables in the background.
		options := strings.Join(append([]string{"loop", "noinit_itable"}, req.GetVolumeCapability().GetMount().GetMountFlags()...), ",")
		if _, err := run(ctx, "mount", "-t", "ext4", "-o", options, image, target); err != nil {
			return nil, status.Errorf(codes.Internal, "mount %s: %v", image, err)
		}
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func (n *node) NodeUnstageVolume(_ context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return &csi.NodeUnstageVolumeResponse{}, unmount(req.GetStagingTargetPath())
}

func (n *node) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	staging, target := req.GetStagingTargetPath(), req.GetTargetPath()
	staged, err := mountAt(staging)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if staged == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "nothing is mounted at %s", staging)
	}
	all, err := mounts()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	for _, one := range all {
		if one.path == target {
			return &csi.NodePublishVolumeResponse{}, nil
		}
	}
	switch req.GetVolumeCapability().GetAccessMode().GetMode() {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
		for _, one := range all {
			if one.device == staged.device && one.root == staged.root && one.path != staging {
				return nil, status.Errorf(codes.FailedPrecondition, "volume %s is already published at a different target path", req.GetVolumeId())
			}
		}
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if _, err := run(ctx, "mount", "--bind", staging, target); err != nil {
		return nil, status.Errorf(codes.Internal, "could not mount %s at %s: %v", staging, target, err)
	}
	if req.GetReadonly() {
		if _, err := run(ctx, "mount", "-o", "remount,bind,ro", target); err != nil {
			return nil, errors.Join(status.Error(codes.Internal, err.Error()), unmount(target))
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (n *node) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return &csi.NodeUnpublishVolumeResponse{}, unmount(req.GetTargetPath())
}

func (n *node) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if _, err := n.device(ctx, req.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := grow(ctx, req.GetVolumePath()); err != nil {
		// The kubelet tries again when no pod uses the volume; by then it has grown in NodeStageVolume.
		return nil, status.Errorf(codes.FailedPrecondition, "failed to resize volume %s: %v", req.GetVolumeId(), err)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: req.GetCapacityRange().GetRequiredBytes()}, nil
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId: strconv.Itoa(n.linodeID),
		// What a Linode of 32 GiB takes.
		MaxVolumesPerNode:  32,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{topologyKey: n.region}},
	}, nil
}

func (n *node) NodeGetVolumeStats(_ context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	var found syscall.Statfs_t
	if err := syscall.Statfs(req.GetVolumePath(), &found); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume path %s: %v", req.GetVolumePath(), err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{
			Unit:      csi.VolumeUsage_BYTES,
			Total:     int64(found.Blocks) * found.Bsize,
			Available: int64(found.Bavail) * found.Bsize,
			Used:      int64(found.Blocks-found.Bfree) * found.Bsize,
		},
		{
			Unit:      csi.VolumeUsage_INODES,
			Total:     int64(found.Files),
			Available: int64(found.Ffree),
			Used:      int64(found.Files - found.Ffree),
		},
	}}, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, one := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: one}},
		})
	}
	return answer, nil
}

// prepare makes a file system where there is none yet, and lets one that is smaller than its device grow. blkid ends with
// 2 when it knows nothing of what it sees.
func prepare(ctx context.Context, image string) error {
	kind, err := run(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", image)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		_, err = run(ctx, "mkfs.ext4", "-q", "-F", "-m0", image)
		return err
	}
	if err != nil {
		return err
	}
	if kind != "ext4" {
		return fmt.Errorf("it holds %q", kind)
	}
	// It ends with 1 when it mended something, such as the journal of a clone that was made while its source was in use.
	if _, err := run(ctx, "e2fsck", "-p", image); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return err
	}
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	size, err := fileSystemSize(ctx, image)
	if err != nil || size+blockGroup > info.Size() {
		return err
	}
	if _, err := run(ctx, "e2fsck", "-f", "-p", image); err != nil {
		return err
	}
	_, err = run(ctx, "resize2fs", image)
	return err
}

// blockGroup is ext4's unit of allocation; what is left of a device below it may stay unused.
const blockGroup = 128 << 20

func fileSystemSize(ctx context.Context, image string) (int64, error) {
	header, err := run(ctx, "dumpe2fs", "-h", image)
	if err != nil {
		return 0, err
	}
	size := int64(1)
	for _, name := range []string{"Block count:", "Block size:"} {
		_, after, _ := strings.Cut(header, name)
		line, _, _ := strings.Cut(after, "\n")
		value, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("dumpe2fs: %s %w", name, err)
		}
		size *= value
	}
	return size, nil
}

// grow makes a mounted file system as large as its device, which may have grown. The kernel allows it only to those with
// CAP_SYS_RESOURCE, which root in a container may lack.
func grow(ctx context.Context, path string) error {
	mounted, err := mountAt(path)
	if err != nil {
		return err
	}
	if mounted == nil {
		return fmt.Errorf("nothing is mounted at %s", path)
	}
	if _, err := run(ctx, "losetup", "--set-capacity", mounted.source); err != nil {
		return err
	}
	_, err = run(ctx, "resize2fs", mounted.source)
	return err
}

func unmount(path string) error {
	if path == "" {
		return status.Error(codes.InvalidArgument, "path is not set")
	}
	mounted, err := mountAt(path)
	if err == nil && mounted != nil {
		err = syscall.Unmount(path, 0)
	}
	if err == nil {
		// Only when it is empty: never a folder tree.
		err = syscall.Rmdir(path)
	}
	if err != nil && !os.IsNotExist(err) {
		return status.Errorf(codes.Internal, "could not unmount %s: %v", path, err)
	}
	return nil
}

type mountPoint struct{ device, root, path, source string }

// mountAt gives what is mounted at the path, nil when nothing is.
func mountAt(path string) (*mountPoint, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var found *mountPoint
	for _, one := range all {
		if one.path == path {
			found = &one
		}
	}
	return found, nil
}

func mounts() ([]mountPoint, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text)), nil
}

// parseMounts reads mountinfo as proc(5) says it: optional fields end at a lone hyphen.
func parseMounts(text string) []mountPoint {
	found := []mountPoint{}
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(rest) < 2 {
			continue
		}
		found = append(found, mountPoint{device: fields[2], root: fields[3], path: unescape(fields[4]), source: unescape(rest[1])})
	}
	return found
}

func unescape(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

// run gives what the program wrote, without the space around it; what it complained of is in the error.
func run(ctx context.Context, program string, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, program, arguments...)
	var output, complaints bytes.Buffer
	command.Stdout, command.Stderr = &output, &complaints
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(complaints.String()))
	}
	return strings.TrimSpace(output.String()), nil
}
