#!/bin/sh
# Makes sure that the image eclipse-mosquitto:2 is there for the container tests.
#
# It is pulled where that is possible. Elsewhere an image is put together from nothing but this machine's own mosquitto
# and the libraries that ldd names, laid out as the official one: /usr/sbin/mosquitto, which reads
# /mosquitto/config/mosquitto.conf and may write to /mosquitto/data. `docker import` needs no builder.
set -eu

image=${1:-eclipse-mosquitto:2}

if docker image inspect "$image" >/dev/null 2>&1; then
    echo "mosquitto-image: $image is there"
    exit 0
fi
if [ "${FLOTILLA_IMAGE_PULL:-yes}" = yes ] && timeout 120 docker pull -q "$image" 2>/dev/null; then
    exit 0
fi

binary=$(PATH="$PATH:/usr/sbin" command -v mosquitto) || {
    echo "mosquitto-image: $image can't be pulled and mosquitto is not installed: apt-get install mosquitto" >&2
    exit 1
}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root/usr/sbin" "$root/etc" "$root/tmp" "$root/mosquitto/config" "$root/mosquitto/data"
cp -L "$binary" "$root/usr/sbin/mosquitto"
# Libraries and the loader, each at the path where the program looks for it.
ldd "$binary" | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) { print $i; break } }' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
printf 'root:x:0:0:root:/:/sbin/nologin\nmosquitto:x:1883:1883::/mosquitto:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nmosquitto:x:1883:\n' >"$root/etc/group"
chown -R 1883:1883 "$root/mosquitto" 2>/dev/null || true

tar -C "$root" -c . | docker import \
    --change 'CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]' \
    --change 'EXPOSE 1883' \
    - "$image" >/dev/null
echo "mosquitto-image: $image made from $binary"
